// Decoding and checking: whatever the words say, the result is a plan that can be run, or an Error.
#include "plan.h"

#include <algorithm>
#include <numeric>

namespace foveate {
namespace {

constexpr int64_t kMagic = 0x666f76656174;  // "foveat"
constexpr int64_t kMost = 1 << 20;          // of anything that is counted
constexpr int64_t kMostPooled = 1 << 14;    // positions
constexpr int64_t kMostSummed = 1 << 15;    // products of bytes, in 32 bits

[[noreturn]] void fail(const std::string& what) { throw Error("the plan " + what); }

class Reader {
 public:
  Reader(const int64_t* words, int64_t count, const float* params, int64_t param_count)
      : words_(words), end_(words + count), params_(params), param_count_(param_count) {}

  int64_t word(int64_t low, int64_t high, const char* what) {
    if (words_ == end_) fail(std::string("ends before ") + what);
    const int64_t value = *words_++;
    if (value < low || value > high) fail("has " + std::string(what) + " " + std::to_string(value));
    return value;
  }

  int64_t count(const char* what, int64_t low = 0) { return word(low, kMost, what); }

  template <class Enum>
  Enum choice(Enum last, const char* what) {
    return static_cast<Enum>(word(0, static_cast<int64_t>(last), what));
  }

  // `count` parameters at an offset that the next word gives.
  const float* params(int64_t count, const char* what) {
    const int64_t offset = word(0, param_count_, what);
    if (count > param_count_ - offset) fail(std::string("has too few parameters for ") + what);
    return params_ + offset;
  }

  std::vector<float> values(int64_t count, const char* what) {
    const float* from = params(count, what);
    return {from, from + count};
  }

  // The same of bytes, four in a parameter.
  const int8_t* bytes(int64_t count, const char* what) {
    return reinterpret_cast<const int8_t*>(params((count + 3) / 4, what));
  }

  // `values` where the offset may be −1, for zeros.
  std::vector<float> optional(int64_t count, const char* what) {
    if (words_ != end_ && *words_ == -1) return words_++, std::vector<float>(count);
    return values(count, what);
  }

  bool done() const { return words_ == end_; }

 private:
  const int64_t *words_, *end_;
  const float* params_;
  int64_t param_count_;
};

class Decoder {
 public:
  Decoder(Plan& plan, Reader reader) : plan_(plan), read_(reader) {}

  void run() {
    if (read_.word(INT64_MIN, INT64_MAX, "its first word") != kMagic) fail("is none");
    plan_.tensors.resize(read_.count("a number of tensors", 1));
    for (Tensor& tensor : plan_.tensors) {
      tensor.channels = read_.count("channels", 1);
      if (read_.word(0, 1, "a tensor's type")) tensor.format = format();
    }
    made_.resize(plan_.tensors.size());
    for (int64_t n = read_.count("a number of inputs", 1); n; n--) {
      const int id = tensor("input");
      if (made_[id]) fail("has an input twice");
      made_[id] = true;
      plan_.tensors[id].input = true;
      if (plan_.tensors[id].format.bytes()) fail("has an input of bytes");
      plan_.tensors[id].mask = read_.word(0, 1, "a mask flag");
      if (plan_.tensors[id].mask && plan_.tensors[id].channels != 1) fail("has a mask of several channels");
      plan_.inputs.push_back(id);
    }
    std::vector<int> outputs;
    for (int64_t n = read_.count("a number of outputs", 1); n; n--) outputs.push_back(tensor("output"));
    for (int64_t n = read_.count("a number of ops", 1); n; n--) plan_.ops.push_back(op());
    for (int id : outputs) {
      if (!made_[id] || plan_.tensors[id].input) fail("has an output that no op makes");
      if (plan_.tensors[id].format.bytes()) fail("has an output of bytes");
      plan_.tensors[id].output = true;
    }
    plan_.outputs = outputs;
    if (!read_.done()) fail("has words left over");
  }

 private:
  int tensor(const char* what) {
    return static_cast<int>(read_.word(0, static_cast<int64_t>(plan_.tensors.size()) - 1, what));
  }

  int source() {
    const int id = tensor("a source");
    if (!made_[id]) fail("reads a tensor before it is made");
    return id;
  }

  Format format() {
    const Format format{read_.values(1, "a scale")[0], static_cast<int32_t>(read_.word(0, 255, "a zero"))};
    if (!(format.scale > 1e-30f && format.scale < 1e30f)) fail("has a scale beyond reason");
    return format;
  }

  int64_t channels(int id) const { return plan_.tensors[id].channels; }
  const Format& format(int id) const { return plan_.tensors[id].format; }

  Op op() {
    Op op;
    op.kind = read_.choice(OpKind::kConvInteger, "an op kind");
    op.out = tensor("a target");
    if (made_[op.out]) fail("makes a tensor twice");
    switch (op.kind) {
      case OpKind::kConv: conv(op); break;
      case OpKind::kPool: pool(op); break;
      case OpKind::kResize: resize(op); break;
      case OpKind::kCopy: copy(op); break;
      case OpKind::kConvTranspose: conv_transpose(op); break;
      case OpKind::kConvInteger: conv_integer(op); break;
    }
    made_[op.out] = true;
    for (int64_t n = read_.count("a number of steps"); n; n--) op.steps.push_back(step(op));
    return op;
  }

  void whole(Op& op) {
    const int in = source();
    op.parts = {{in, 0, channels(in), 0}};
  }

  // Pads of at least `least`: below zero, they leave inputs out.
  void window(Op& op, int64_t least = 0) {
    op.y.kernel = read_.count("a kernel", 1), op.x.kernel = read_.count("a kernel", 1);
    op.y.stride = read_.count("a stride", 1), op.x.stride = read_.count("a stride", 1);
    op.y.dilation = read_.count("a dilation", 1), op.x.dilation = read_.count("a dilation", 1);
    op.y.low = read_.word(least, kMost, "a pad"), op.x.low = read_.word(least, kMost, "a pad");
    op.y.high = read_.word(least, kMost, "a pad"), op.x.high = read_.word(least, kMost, "a pad");
  }

  // A convolution's weights: how many outputs, and inputs of each.
  struct Shape {
    int64_t out, each, taps;
  };

  Shape convolution(Op& op) {
    whole(op);
    window(op, -kMost);
    op.groups = read_.count("groups", 1);
    const int64_t in = channels(op.in()), out = channels(op.out), taps = op.y.kernel * op.x.kernel;
    if (in % op.groups || out % op.groups) fail("has channels that its groups do not divide");
    const int64_t each = in / op.groups;
    if (taps > kMost || taps * each > (INT64_C(1) << 40) / out) fail("has a kernel beyond reason");
    op.work = static_cast<double>(out * each * taps);
    op.depthwise = op.groups > 1 && each == 1 && out == op.groups;
    return {out, each, taps};
  }

  void conv(Op& op) {
    const Shape shape = convolution(op);
    floats(op);
    const float* weights = read_.params(shape.out * shape.each * shape.taps, "weights");
    const std::vector<float> bias = read_.optional(shape.out, "a bias");
    op.depthwise ? pack_depthwise(op, weights, bias) : pack(op, weights, bias);
  }

  void conv_integer(Op& op) {
    const Shape shape = convolution(op);
    if (!format(op.in()).bytes()) fail("convolves floats as bytes");
    const int64_t each = shape.each * shape.taps;
    if (each > kMostSummed) fail("has a kernel beyond what 32 bits can sum up");
    const int8_t* weights = read_.bytes(shape.out * each, "weights");
    const float* scale = read_.params(shape.out, "a scale");
    const std::vector<float> bias = read_.optional(shape.out, "a bias");
    op.depthwise ? pack_depthwise(op, weights, scale, bias) : pack(op, weights, scale, bias);
  }

  void floats(const Op& op) const {
    if (format(op.in()).bytes()) fail("convolves bytes as floats");
  }

  void conv_transpose(Op& op) {
    whole(op);
    window(op);
    op.y.high -= read_.count("output padding"), op.x.high -= read_.count("output padding");
    op.groups = read_.count("groups", 1);
    const int64_t in = channels(op.in()), out = channels(op.out), taps = op.y.kernel * op.x.kernel;
    if (in % op.groups || out % op.groups) fail("has channels that its groups do not divide");
    floats(op);
    const int64_t per = out / op.groups;
    if (taps > kMost || op.y.stride * op.x.stride > kMost || taps * per > (INT64_C(1) << 40) / in)
      fail("has a kernel beyond reason");
    const float* weights = read_.params(in * per * taps, "weights");
    const std::vector<float> bias = read_.optional(out, "a bias");
    op.work = static_cast<double>(in * per * taps) / static_cast<double>(op.y.stride * op.x.stride);
    // Taps in the order of the phases, then as for a convolution whose kernel is that list: [out][in a group][taps].
    std::vector<int64_t> order;
    for (int64_t y = 0; y < op.y.stride; y++)
      for (int64_t x = 0; x < op.x.stride; x++) {
        Phase phase{{}, {}, static_cast<int64_t>(order.size())};
        for (int64_t ky = 0; ky < op.y.kernel; ky++)
          for (int64_t kx = 0; kx < op.x.kernel; kx++) {
            const int64_t dy = ky * op.y.dilation - y, dx = kx * op.x.dilation - x;
            if (dy % op.y.stride || dx % op.x.stride) continue;
            phase.back_y.push_back(dy / op.y.stride), phase.back_x.push_back(dx / op.x.stride);
            order.push_back(ky * op.x.kernel + kx);
          }
        op.phases.push_back(std::move(phase));
      }
    const int64_t each = in / op.groups;
    std::vector<float> turned(out * each * taps);
    for (int64_t c = 0; c < out; c++)
      for (int64_t i = 0; i < each; i++)
        for (int64_t t = 0; t < taps; t++)
          turned[(c * each + i) * taps + t] = weights[((c / per * each + i) * per + c % per) * taps + order[t]];
    pack(op, turned.data(), bias);
  }

  // [out][taps] to [taps][out]
  void pack_depthwise(Op& op, const float* weights, const std::vector<float>& bias) {
    const int64_t out = channels(op.out), taps = op.y.kernel * op.x.kernel;
    op.bias.assign(bias.begin(), bias.end());
    op.weights.resize(out * taps);
    for (int64_t c = 0; c < out; c++)
      for (int64_t t = 0; t < taps; t++) op.weights[t * out + c] = weights[c * taps + t];
  }

  // The same of bytes. The sums start at what the zero of the input's bytes adds to them.
  void pack_depthwise(Op& op, const int8_t* weights, const float* scale, const std::vector<float>& bias) {
    const int64_t out = channels(op.out), taps = op.y.kernel * op.x.kernel;
    op.bias.assign(bias.begin(), bias.end()), op.scale.assign(scale, scale + out);
    op.byte_weights.resize(out * taps), op.start.resize(out);
    for (int64_t c = 0; c < out; c++) {
      for (int64_t t = 0; t < taps; t++) op.byte_weights[t * out + c] = weights[c * taps + t];
      op.start[c] = start(op, weights + c * taps, taps);
    }
  }

  int32_t start(const Op& op, const int8_t* weights, int64_t count) const {
    return -format(op.in()).zero * std::accumulate(weights, weights + count, int32_t(0));
  }

  // Divides output channels into blocks of `length` rows of weights each, and returns how many vectors they have in all.
  int64_t divide(Op& op, int64_t length) const {
    const int64_t per = channels(op.out) / op.groups, width = plan_.kernels.width;
    int64_t vectors = 0;
    for (int64_t group = 0; group < op.groups; group++)
      for (int64_t first = 0; first < per;) {
        const int64_t left = per - first;
        int64_t level = plan_.kernels.levels - 1;
        while (level && (INT64_C(1) << level) > (left + width - 1) / width) level--;  // no vector is all padding
        const int64_t held = std::min(left, width << level);
        op.blocks.push_back({group, group * per + first, held, level, vectors * width * length, vectors * width});
        vectors += INT64_C(1) << level, first += held;
      }
    return vectors;
  }

  // [out][in a group][taps] to blocks of [taps][in a group][out in the block]
  void pack(Op& op, const float* weights, const std::vector<float>& bias) {
    const int64_t each = channels(op.in()) / op.groups, taps = op.y.kernel * op.x.kernel;
    const int64_t width = plan_.kernels.width, vectors = divide(op, taps * each);
    op.weights.resize(vectors * width * taps * each), op.bias.resize(vectors * width);
    for (const Block& block : op.blocks)
      for (int64_t c = 0; c < block.channels; c++) {
        op.bias[block.bias + c] = bias[block.first + c];
        for (int64_t i = 0; i < each; i++)
          for (int64_t t = 0; t < taps; t++)
            op.weights[block.panel + (t * each + i) * block.vectors() * width + c] =
                weights[((block.first + c) * each + i) * taps + t];
      }
  }

  // The same to blocks of [taps][in a group ÷ 4][out in the block][4]. Where a row of the kernel is one tap, its bytes
  // count on through all its channels.
  void pack(Op& op, const int8_t* weights, const float* scale, const std::vector<float>& bias) {
    const int64_t each = channels(op.in()) / op.groups, taps = op.y.kernel * op.x.kernel;
    const int64_t joined = op.row_taps() ? op.x.kernel : 1, quads = (joined * each + 3) / 4;
    const int64_t width = plan_.kernels.width, vectors = divide(op, taps / joined * quads * 4);
    op.byte_weights.resize(vectors * width * taps / joined * quads * 4);
    op.bias.resize(vectors * width), op.scale.resize(vectors * width), op.start.resize(vectors * width);
    for (const Block& block : op.blocks)
      for (int64_t c = 0; c < block.channels; c++) {
        const int64_t out = block.first + c;
        op.bias[block.bias + c] = bias[out], op.scale[block.bias + c] = scale[out];
        op.start[block.bias + c] = start(op, weights + out * each * taps, each * taps);
        for (int64_t i = 0; i < each; i++)
          for (int64_t t = 0; t < taps; t++) {
            const int64_t byte = t % joined * each + i, quad = t / joined * quads + byte / 4;
            op.byte_weights[block.panel + (quad * block.vectors() * width + c) * 4 + byte % 4] =
                weights[(out * each + i) * taps + t];
          }
      }
  }

  void pool(Op& op) {
    whole(op);
    op.pool = read_.choice(PoolKind::kAverageWithPadding, "a pool kind");
    window(op);
    op.y.ceil = op.x.ceil = read_.word(0, 1, "a rounding of sizes");
    same_channels(op);
    if (op.y.kernel * op.x.kernel > kMostPooled) fail("has a pool beyond reason");
    if (op.y.low >= op.y.kernel * op.y.dilation || op.x.low >= op.x.kernel * op.x.dilation)
      fail("pads a pool by its kernel or more");
    op.work = static_cast<double>(channels(op.out) * op.y.kernel * op.x.kernel) / 4;
  }

  void resize(Op& op) {
    whole(op);
    op.resize = read_.choice(ResizeKind::kLinear, "a resize kind");
    op.coordinates = read_.choice(Coordinates::kAsymmetric, "coordinates");
    op.rounding = read_.choice(Rounding::kCeil, "a rounding");
    const float* scales = read_.params(2, "scales");
    op.scale_y = scales[0], op.scale_x = scales[1];
    for (float scale : {op.scale_y, op.scale_x})
      if (!(scale > 1e-3f && scale < 1e3f)) fail("has a scale beyond reason");
    same_channels(op);
    op.work = static_cast<double>(channels(op.out));
  }

  void same_channels(const Op& op) const {
    if (channels(op.in()) != channels(op.out)) fail("changes channels where it cannot");
  }

  void copy(Op& op) {
    std::vector<bool> filled(channels(op.out));
    for (int64_t n = read_.count("a number of parts", 1); n; n--) {
      Part part{source(), read_.count("a channel"), read_.count("channels", 1), read_.count("a channel")};
      if (part.from + part.count > channels(part.tensor) || part.to + part.count > channels(op.out))
        fail("copies channels that are not there");
      std::fill_n(filled.begin() + part.to, part.count, true);
      op.parts.push_back(part);
    }
    if (std::find(filled.begin(), filled.end(), false) != filled.end()) fail("leaves channels empty");
    op.work = static_cast<double>(channels(op.out)) / 4;
  }

  Step step(const Op& op) {
    Step step;
    step.kind = read_.choice(StepKind::kRound, "a step");
    const int64_t out = channels(op.out);
    switch (step.kind) {
      case StepKind::kAdd:
      case StepKind::kSubtract:
      case StepKind::kMultiply:
      case StepKind::kMultiplyMap:
        step.tensor = source();
        if (step.tensor == op.out) fail("has a step that reads what it changes");
        if (channels(step.tensor) != (step.kind == StepKind::kMultiplyMap ? 1 : out)) fail("combines unlike channels");
        break;
      case StepKind::kAffine:
        step.a = read_.values(out, "a scale");
        step.b = read_.optional(out, "a shift");
        break;
      case StepKind::kPrelu: step.a = read_.values(out, "slopes"); break;
      case StepKind::kActivate:
        step.activation = read_.choice(Activation::kErf, "an activation");
        step.a = read_.values(2, "an activation's numbers");
        break;
      case StepKind::kSoftmax: break;
      case StepKind::kRound: step.format = format(); break;
    }
    return step;
  }

  Plan& plan_;
  Reader read_;
  std::vector<bool> made_;
};

}  // namespace

Plan::Plan(const int64_t* words, int64_t count, const float* params, int64_t param_count, const Kernels& kernels)
    : kernels(kernels) {
  Decoder(*this, Reader(words, count, params, param_count)).run();
}

}  // namespace foveate
