// The native kernels as custom ops of onnxruntime: a session whose options have this library registered runs them in
// place of the ops' function bodies.
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "deformable.h"
#include "foveate.h"
#include "onnxruntime_abi.h"

namespace {

using namespace foveate;

struct DeformableOp : OrtCustomOp {
  const Kernels* kernels;
};

struct DeformableKernel {
  const OrtApi* api;
  const Kernels* kernels;
};

// A failure that onnxruntime told, and is to be told of.
struct Failed {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status) throw Failed{status};
}

struct Tensor {
  void* data;
  std::vector<int64_t> shape;

  Tensor(const OrtApi& api, const OrtContext* context, size_t index) {
    const OrtValue* value;
    check(api.input(context, index, &value));
    check(api.data(value, &data));
    OrtTensorShape* found;
    check(api.shape(value, &found));
    const auto release = [&](OrtTensorShape* shape) { api.release(shape); };
    const std::unique_ptr<OrtTensorShape, decltype(release)> held(found, release);
    size_t rank;
    check(api.rank(found, &rank));
    shape.resize(rank);
    check(api.dims(found, shape.data(), rank));
  }
};

void refuse(const char* why) { throw std::invalid_argument(std::string("DeformableSample: ") + why); }

void check_sizes(const DeformableSample& sample) {
  int64_t tokens = 0;
  for (int64_t level = 0; level < sample.levels; level++) {
    const int64_t height = sample.sizes[2 * level], width = sample.sizes[2 * level + 1];
    if (height < 0 || width < 0 || (width && height > (sample.tokens - tokens) / width))
      refuse("more positions than tokens");
    tokens += height * width;
  }
  if (tokens != sample.tokens) refuse("fewer positions than tokens");
}

void compute(const DeformableKernel& kernel, OrtContext* context) {
  const OrtApi& api = *kernel.api;
  const Tensor value(api, context, 0), sizes(api, context, 1), locations(api, context, 2), weights(api, context, 3);
  if (value.shape.size() != 4 || sizes.shape.size() != 2 || sizes.shape[1] != 2 || weights.shape.size() != 5)
    refuse("expected value [B, S, heads, C], sizes [L, 2] and weights [B, Q, heads, L, P]");
  DeformableSample sample{};
  sample.batch = value.shape[0], sample.tokens = value.shape[1];
  sample.heads = value.shape[2], sample.channels = value.shape[3];
  sample.queries = weights.shape[1], sample.levels = sizes.shape[0], sample.points = weights.shape[4];
  std::vector<int64_t> each{sample.batch, sample.queries, sample.heads, sample.levels, sample.points};
  if (weights.shape != each) refuse("other weights than [B, Q, heads, L, P]");
  each.push_back(2);
  if (locations.shape != each) refuse("other locations than [B, Q, heads, L, P, 2]");
  sample.value = static_cast<const float*>(value.data);
  sample.sizes = static_cast<const int64_t*>(sizes.data);
  sample.locations = static_cast<const float*>(locations.data);
  sample.weights = static_cast<const float*>(weights.data);
  check_sizes(sample);

  const int64_t shape[] = {sample.batch, sample.queries, sample.heads * sample.channels};
  OrtValue* made;
  check(api.output(context, 0, shape, 3, &made));
  void* data;
  check(api.data(made, &data));
  sample.read = static_cast<float*>(data);

  struct Work {
    const DeformableSample& sample;
    const Kernels& kernels;
  } work{sample, *kernel.kernels};
  const auto run = [](void* given, size_t unit) {
    const auto& work = *static_cast<const Work*>(given);
    work.sample.run(work.kernels, int64_t(unit));
  };
  check(api.parallel(context, run, size_t(sample.units()), &work));
}

DeformableOp deformable_op(const Kernels& kernels) {
  DeformableOp op{};
  op.kernels = &kernels;
  op.version = kOrtVersion;
  op.name = [](const OrtCustomOp*) { return "DeformableSample"; };
  op.provider = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  op.input_count = [](const OrtCustomOp*) { return size_t(4); };
  op.input_type = [](const OrtCustomOp*, size_t index) { return index == 1 ? kOrtInt64 : kOrtFloat; };
  op.output_count = [](const OrtCustomOp*) { return size_t(1); };
  op.output_type = [](const OrtCustomOp*, size_t) { return kOrtFloat; };
  op.input_kind = op.output_kind = [](const OrtCustomOp*, size_t) { return 0; };  // required
  op.input_memory = [](const OrtCustomOp*, size_t) { return 0; };                // the provider's own
  for (auto& asked : op.variadic) asked = [](const OrtCustomOp*) { return 0; };
  op.first_version = op.last_version = [](const OrtCustomOp*) { return 1; };
  op.create = [](const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo*, void** made) -> OrtStatus* {
    *made = new (std::nothrow) DeformableKernel{api, static_cast<const DeformableOp*>(op)->kernels};
    return *made ? nullptr : api->create_status(kOrtFailed, "out of memory");
  };
  op.compute = [](void* made, OrtContext* context) -> OrtStatus* {
    const auto& kernel = *static_cast<const DeformableKernel*>(made);
    try {
      compute(kernel, context);
      return nullptr;
    } catch (const Failed& failed) {
      return failed.status;
    } catch (const std::exception& failure) {
      return kernel.api->create_status(kOrtFailed, failure.what());
    }
  };
  op.destroy = [](void* made) { delete static_cast<DeformableKernel*>(made); };
  return op;
}

// What sessions refer to: it stays. Two onnxruntimes in one process have each their own.
struct Registered {
  DeformableOp op;
  OrtDomain* domain = nullptr;
};

const Registered& registered(const OrtApi& api, const Kernels& kernels) {
  static std::mutex mutex;
  static std::map<std::pair<const OrtApi*, const Kernels*>, Registered> all;
  const std::lock_guard lock(mutex);
  Registered& found = all[{&api, &kernels}];
  if (found.domain) return found;
  found.op = deformable_op(kernels);
  OrtDomain* domain;
  check(api.create_domain("ai.foveate", &domain));
  check(api.add_op(domain, &found.op));
  found.domain = domain;
  return found;
}

// The instruction set that the options ask for, in the numbers of fv_isa.
Isa isa_of(const OrtApi& api, const OrtOptions* options) {
  char text[16] = "0";
  size_t size = sizeof text;
  if (OrtStatus* status = api.config_entry(options, "foveate.isa", text, &size)) api.release(status);  // has none
  return static_cast<Isa>(std::atoi(text));
}

}  // namespace

void* RegisterCustomOps(void* given, const void* base) {
  const OrtApi* api = static_cast<const OrtApiBase*>(base)->api(kOrtVersion);
  if (!api) return nullptr;
  auto* options = static_cast<OrtOptions*>(given);
  try {
    const Kernels* kernels = kernels_for(isa_of(*api, options));
    if (!kernels) return api->create_status(kOrtFailed, "this processor lacks the instruction set");
    return api->add_domain(options, registered(*api, *kernels).domain);
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const std::exception& failure) {
    return api->create_status(kOrtFailed, failure.what());
  }
}
