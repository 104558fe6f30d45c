// Of onnxruntime's C ABI, what a custom op needs. Its tables only ever grow at their end: the number of a function and
// the place of a field hold for every later version, and one that is older gives no table.
#pragma once
#include <cstddef>
#include <cstdint>

namespace foveate {

constexpr uint32_t kOrtVersion = 17;  // 1.17, the first with ParallelFor

struct OrtStatus;
struct OrtValue;
struct OrtTensorShape;
struct OrtContext;
struct OrtDomain;
struct OrtOptions;
struct OrtKernelInfo;

struct OrtApi {
  template <size_t kNumber, class F, class... Arguments>
  auto call(Arguments... arguments) const {
    return reinterpret_cast<F*>(functions[kNumber])(arguments...);
  }
  OrtStatus* create_status(int code, const char* text) const {
    return call<0, OrtStatus*(int, const char*)>(code, text);
  }
  OrtStatus* create_domain(const char* name, OrtDomain** made) const {
    return call<26, OrtStatus*(const char*, OrtDomain**)>(name, made);
  }
  OrtStatus* add_op(OrtDomain* domain, const struct OrtCustomOp* op) const {
    return call<27, OrtStatus*(OrtDomain*, const OrtCustomOp*)>(domain, op);
  }
  OrtStatus* add_domain(OrtOptions* options, OrtDomain* domain) const {
    return call<28, OrtStatus*(OrtOptions*, OrtDomain*)>(options, domain);
  }
  OrtStatus* data(const OrtValue* value, void** found) const {
    return call<51, OrtStatus*(const OrtValue*, void**)>(value, found);
  }
  OrtStatus* rank(const OrtTensorShape* shape, size_t* found) const {
    return call<61, OrtStatus*(const OrtTensorShape*, size_t*)>(shape, found);
  }
  OrtStatus* dims(const OrtTensorShape* shape, int64_t* found, size_t count) const {
    return call<62, OrtStatus*(const OrtTensorShape*, int64_t*, size_t)>(shape, found, count);
  }
  OrtStatus* shape(const OrtValue* value, OrtTensorShape** made) const {
    return call<65, OrtStatus*(const OrtValue*, OrtTensorShape**)>(value, made);
  }
  OrtStatus* input(const OrtContext* context, size_t index, const OrtValue** found) const {
    return call<90, OrtStatus*(const OrtContext*, size_t, const OrtValue**)>(context, index, found);
  }
  OrtStatus* output(OrtContext* context, size_t index, const int64_t* dims, size_t count, OrtValue** made) const {
    using F = OrtStatus*(OrtContext*, size_t, const int64_t*, size_t, OrtValue**);
    return call<91, F>(context, index, dims, count, made);
  }
  void release(OrtStatus* status) const { call<93, void(OrtStatus*)>(status); }
  void release(OrtTensorShape* shape) const { call<99, void(OrtTensorShape*)>(shape); }
  // `text` null: only its size, with the zero at its end.
  OrtStatus* config_entry(const OrtOptions* options, const char* key, char* text, size_t* size) const {
    return call<238, OrtStatus*(const OrtOptions*, const char*, char*, size_t*)>(options, key, text, size);
  }
  // Calls work(data, unit) for all 0 ≤ unit < count on the session's threads.
  OrtStatus* parallel(const OrtContext* context, void (*work)(void*, size_t), size_t count, void* data) const {
    using F = OrtStatus*(const OrtContext*, void (*)(void*, size_t), size_t, size_t, void*);
    return call<274, F>(context, work, count, 0, data);  // 0: divided as the session likes
  }

  void* const functions[275];
};

struct OrtApiBase {
  const OrtApi* (*api)(uint32_t version);
  const char* (*version)();
};

// What onnxruntime asks of an op. Left null: what a second version is given of, and what is not inferred.
struct OrtCustomOp {
  uint32_t version;
  void* (*create_v1)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*name)(const OrtCustomOp*);
  const char* (*provider)(const OrtCustomOp*);
  int (*input_type)(const OrtCustomOp*, size_t index);
  size_t (*input_count)(const OrtCustomOp*);
  int (*output_type)(const OrtCustomOp*, size_t index);
  size_t (*output_count)(const OrtCustomOp*);
  void (*compute_v1)(void* kernel, OrtContext*);
  void (*destroy)(void* kernel);
  int (*input_kind)(const OrtCustomOp*, size_t index);
  int (*output_kind)(const OrtCustomOp*, size_t index);
  int (*input_memory)(const OrtCustomOp*, size_t index);
  int (*variadic[4])(const OrtCustomOp*);
  OrtStatus* (*create)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*compute)(void* kernel, OrtContext*);
  OrtStatus* (*infer_shape)(const OrtCustomOp*, void* context);
  int (*first_version)(const OrtCustomOp*);
  int (*last_version)(const OrtCustomOp*);
};

constexpr int kOrtFloat = 1, kOrtInt64 = 7;  // types of elements
constexpr int kOrtFailed = 1;

}  // namespace foveate
