// The kernels as plugins of TensorRT: an engine that is built with this library loaded runs them in place of the ops'
// function bodies, and needs it loaded when it is opened.
#include <cstdint>
#include <cstring>
#include <new>

#include "foveate_cuda.h"
#include "tensorrt_abi.h"

namespace foveate {
namespace {

using namespace trt;

constexpr const char* kVersion = "1";  // of both plugins: an engine names the one that it needs

bool is_float(Type type) { return type == Type::kFloat || type == Type::kHalf; }
int32_t bytes_of(Type type) { return type == Type::kHalf ? 2 : 4; }

template <class T>
const T* as(const void* pointer) {
  return static_cast<const T*>(pointer);
}

// What a node says, as fields of an engine, too.
struct Attribute {
  const char* name;
  int32_t value;
};

// ai.foveate::EnergyMask: inputs x, weight, bias, threshold, temperature, lambda, gamma; outputs keep, logits, energy.
struct EnergyMaskOp {
  static constexpr const char* kName = "EnergyMask";
  static constexpr int kInputs = 7, kOutputs = 3, kAttributes = 2;
  Attribute attributes[kAttributes] = {{"patch", 1}, {"soft", 0}};

  // Of input or output `place`, where x is of type `first`.
  static Type type(int place, Type first) { return place == 0 || place == kInputs ? first : Type::kFloat; }

  void shapes(const OpenDims* in, OpenDims* out, DimMath& math) const {
    const Dim *one = math.constant(1), *patch = math.constant(attributes[0].value);
    const Dim *const *x = in[0].sizes;
    const Dim *height = math.compute(Operation::kCeilDiv, *x[2], *patch),
              *width = math.compute(Operation::kCeilDiv, *x[3], *patch);
    out[0] = {4, {x[0], one, x[2], x[3]}};
    out[1] = out[2] = {4, {x[0], one, height, width}};
  }

  int32_t run(const Tensor* in, const void* const* inputs, void* const* outputs, void* stream) const {
    const Dims& x = in[0].dims;
    FvEnergyMask op{};
    op.x = inputs[0];
    op.weight = as<float>(inputs[1]), op.bias = as<float>(inputs[2]), op.threshold = as<float>(inputs[3]);
    op.temperature = as<float>(inputs[4]), op.lambda = as<float>(inputs[5]), op.gamma = as<float>(inputs[6]);
    op.keep = outputs[0], op.logits = static_cast<float*>(outputs[1]), op.energy = static_cast<float*>(outputs[2]);
    op.batch = x.sizes[0], op.channels = x.sizes[1];
    op.size[0] = int32_t(x.sizes[2]), op.size[1] = int32_t(x.sizes[3]);
    op.patch = attributes[0].value, op.soft = attributes[1].value, op.element_bytes = bytes_of(in[0].type);
    return fv_cuda_energy_mask(&op, stream);
  }
};

// ai.foveate::DeformableSample: inputs value, sizes, locations, weights; output read.
struct DeformableOp {
  static constexpr const char* kName = "DeformableSample";
  static constexpr int kInputs = 4, kOutputs = 1, kAttributes = 0;
  Attribute* attributes = nullptr;

  static Type type(int place, Type first) {
    return place == 1 ? Type::kInt64 : place == 2 ? Type::kFloat : first;
  }

  void shapes(const OpenDims* in, OpenDims* out, DimMath& math) const {
    const Dim *const *value = in[0].sizes, *const *weights = in[3].sizes;
    out[0] = {3, {weights[0], weights[1], math.compute(Operation::kProduct, *value[2], *value[3])}};
  }

  int32_t run(const Tensor* in, const void* const* inputs, void* const* outputs, void* stream) const {
    const int64_t *value = in[0].dims.sizes, *weights = in[3].dims.sizes;
    FvDeformable op{};
    op.value = inputs[0], op.sizes = as<int64_t>(inputs[1]), op.locations = as<float>(inputs[2]);
    op.weights = inputs[3], op.read = outputs[0];
    op.batch = value[0], op.tokens = value[1], op.heads = value[2], op.channels = value[3];
    op.queries = weights[1], op.levels = weights[3], op.points = weights[4], op.element_bytes = bytes_of(in[0].type);
    return fv_cuda_deformable_sample(&op, stream);
  }
};

template <class Op>
class OpPlugin final : public Plugin, public Core, public Build, public Runtime {
 public:
  explicit OpPlugin(const Op& op) : op_(op) {
    for (int i = 0; i < Op::kAttributes; i++)
      fields_[i] = {op_.attributes[i].name, &op_.attributes[i].value, FieldType::kInt32, 1};
    kept_ = {Op::kAttributes, fields_};
  }

  Interface* part(Part part) noexcept override {
    switch (part) {
      case Part::kCore: return static_cast<Core*>(this);
      case Part::kBuild: return static_cast<Build*>(this);
      case Part::kRuntime: return static_cast<Runtime*>(this);
    }
    return nullptr;
  }
  Plugin* clone() noexcept override { return new (std::nothrow) OpPlugin(op_); }

  const char* name() const noexcept override { return Op::kName; }
  const char* version() const noexcept override { return kVersion; }
  const char* name_space() const noexcept override { return ""; }

  int32_t configure(const OpenTensor*, int32_t, const OpenTensor*, int32_t) noexcept override { return 0; }
  int32_t output_types(Type* out, int32_t outs, const Type* in, int32_t ins) const noexcept override {
    if (ins != Op::kInputs || outs != Op::kOutputs || !is_float(in[0])) return 1;
    for (int i = 0; i < outs; i++) out[i] = Op::type(ins + i, in[0]);
    return 0;
  }
  int32_t output_shapes(const OpenDims* in, int32_t ins, const OpenDims*, int32_t, OpenDims* out, int32_t outs,
                        DimMath& math) noexcept override {
    if (ins != Op::kInputs || outs != Op::kOutputs) return 1;
    op_.shapes(in, out, math);
    return 0;
  }
  bool takes(int32_t place, const OpenTensor* all, int32_t, int32_t) noexcept override {
    const Tensor& asked = all[place].tensor;
    if (asked.format != Format::kLinear) return false;
    return place == 0 ? is_float(asked.type) : asked.type == Op::type(place, all[0].tensor.type);
  }
  int32_t output_count() const noexcept override { return Op::kOutputs; }

  int32_t on_shapes(const Tensor*, int32_t, const Tensor*, int32_t) noexcept override { return 0; }
  int32_t enqueue(const Tensor* in, const Tensor*, const void* const* inputs, void* const* outputs, void*,
                  void* stream) noexcept override {
    return op_.run(in, inputs, outputs, stream);
  }
  Plugin* attach(void*) noexcept override { return clone(); }
  const Fields* kept() noexcept override { return &kept_; }

 private:
  Op op_;
  Field fields_[Op::kAttributes + 1];
  Fields kept_;
};

template <class Op>
class OpCreator final : public Creator {
 public:
  OpCreator() {
    for (int i = 0; i < Op::kAttributes; i++) asked_[i] = {op_.attributes[i].name, nullptr, FieldType::kInt32, 1};
    fields_ = {Op::kAttributes, asked_};
  }

  Plugin* create(const char*, const Fields* given, Phase) noexcept override {
    Op op;
    for (int i = 0; i < given->count; i++)
      for (int a = 0; a < Op::kAttributes; a++)
        if (!std::strcmp(given->fields[i].name, op.attributes[a].name) &&
            !read(given->fields[i], op.attributes[a].value))
          return nullptr;
    return new (std::nothrow) OpPlugin<Op>(op);
  }
  const Fields* fields() noexcept override { return &fields_; }
  const char* name() const noexcept override { return Op::kName; }
  const char* version() const noexcept override { return kVersion; }
  const char* name_space() const noexcept override { return ""; }

 private:
  static bool read(const Field& field, int32_t& value) {
    if (!field.data || field.length < 1) return false;
    if (field.type == FieldType::kInt32) return value = *as<int32_t>(field.data), true;
    if (field.type == FieldType::kInt64) return value = int32_t(*as<int64_t>(field.data)), true;
    return false;
  }

  Op op_;
  Field asked_[Op::kAttributes + 1];
  Fields fields_;
};

}  // namespace
}  // namespace foveate

// What TensorRT asks a library of plugins for.
FV_CUDA_API foveate::trt::Creator* const* getCreators(int32_t& count) {
  static foveate::OpCreator<foveate::EnergyMaskOp> energy_mask;
  static foveate::OpCreator<foveate::DeformableOp> deformable;
  static foveate::trt::Creator* const all[] = {&energy_mask, &deformable};
  count = sizeof all / sizeof *all;
  return all;
}

FV_CUDA_API void setLoggerFinder(void*) {}
