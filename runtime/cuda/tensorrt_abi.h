// Of TensorRT's C++ ABI, what a plugin needs (TensorRT 10 and 11, TensorRT-RTX 1): the same classes by other names. What
// counts is the order of virtual functions and of fields, and the kinds that interfaces call themselves by.
#pragma once
#include <cstddef>
#include <cstdint>

namespace foveate::trt {

enum class Type : int32_t { kFloat = 0, kHalf = 1, kInt64 = 8 };  // of elements
enum class Format : int32_t { kLinear = 0 };
enum class Part : int32_t { kCore = 0, kBuild = 1, kRuntime = 2 };
enum class Phase : int32_t { kBuild = 0, kRuntime = 1 };
enum class FieldType : int32_t { kInt32 = 5, kInt64 = 10 };
enum class Operation : int32_t { kProduct = 1, kCeilDiv = 8 };

constexpr int kMostDims = 8;

struct Dims {
  int32_t rank;
  int64_t sizes[kMostDims];
};

struct Tensor {
  Dims dims;
  Type type;
  Format format;
  float scale;
};

struct OpenTensor {  // of open dims, and between which they lie
  Tensor tensor;
  Dims least, most, opt;
};

struct Field {
  const char* name;
  const void* data;
  FieldType type;
  int32_t length;
};

struct Fields {
  int32_t count;
  const Field* fields;
};

// A dim while the network is built, and what computes with it.
struct Dim;
struct OpenDims {
  int32_t rank;
  const Dim* sizes[kMostDims];
};

class DimMath {
 public:
  const Dim* constant(int64_t value) { return implementation_->constant(value); }
  const Dim* compute(Operation operation, const Dim& a, const Dim& b) {
    return implementation_->compute(operation, a, b);
  }

 private:
  class Implementation {
   public:
    virtual ~Implementation() = default;
    virtual const Dim* constant(int64_t value) = 0;
    virtual const Dim* compute(Operation, const Dim&, const Dim&) = 0;
  };
  virtual ~DimMath() = default;
  Implementation* implementation_;
};

struct Info {
  const char* kind;
  int32_t major, minor;
};

class Interface {
 public:
  virtual int32_t language() const noexcept { return 0; }  // C++
  virtual Info info() const noexcept = 0;
  virtual ~Interface() noexcept = default;
};

class Plugin : public Interface {
 public:
  Info info() const noexcept override { return {"PLUGIN", 1, 0}; }
  virtual Interface* part(Part) noexcept = 0;
  virtual Plugin* clone() noexcept = 0;
};

class Core : public Interface {
 public:
  Info info() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual const char* name() const noexcept = 0;
  virtual const char* version() const noexcept = 0;
  virtual const char* name_space() const noexcept = 0;
};

// Functions that return int32_t: 0 is success.
class Build : public Interface {
 public:
  Info info() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual int32_t configure(const OpenTensor* in, int32_t ins, const OpenTensor* out, int32_t outs) noexcept = 0;
  virtual int32_t output_types(Type* out, int32_t outs, const Type* in, int32_t ins) const noexcept = 0;
  virtual int32_t output_shapes(const OpenDims* in, int32_t ins, const OpenDims* values, int32_t value_count,
                                OpenDims* out, int32_t outs, DimMath& math) noexcept = 0;
  virtual bool takes(int32_t place, const OpenTensor* all, int32_t ins, int32_t outs) noexcept = 0;
  virtual int32_t output_count() const noexcept = 0;
  virtual size_t workspace(const OpenTensor*, int32_t, const OpenTensor*, int32_t) const noexcept { return 0; }
  virtual int32_t tactics(int32_t*, int32_t) noexcept { return 0; }
  virtual int32_t tactic_count() noexcept { return 0; }
  virtual const char* timing_id() noexcept { return nullptr; }
  virtual int32_t format_limit() noexcept { return 100; }
  virtual const char* metadata() noexcept { return nullptr; }
};

class Runtime : public Interface {
 public:
  Info info() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t set_tactic(int32_t) noexcept { return 0; }
  virtual int32_t on_shapes(const Tensor* in, int32_t ins, const Tensor* out, int32_t outs) noexcept = 0;
  virtual int32_t enqueue(const Tensor* in, const Tensor* out, const void* const* inputs, void* const* outputs,
                          void* workspace, void* stream) noexcept = 0;
  virtual Plugin* attach(void* context) noexcept = 0;
  virtual const Fields* kept() noexcept = 0;  // fields that an engine keeps
};

class Creator : public Interface {
 public:
  Info info() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  virtual Plugin* create(const char* layer, const Fields* fields, Phase) noexcept = 0;
  virtual const Fields* fields() noexcept = 0;
  virtual const char* name() const noexcept = 0;
  virtual const char* version() const noexcept = 0;
  virtual const char* name_space() const noexcept = 0;
};

}  // namespace foveate::trt
