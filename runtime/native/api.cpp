// The C ABI over plans, states and pools: no exception leaves it.
#include <cstdio>
#include <exception>
#include <memory>

#include "handles.h"
#include "state.h"

using namespace foveate;

struct FvPlan {
  std::shared_ptr<const Plan> plan;
};
struct FvState {
  State state;
};

namespace {

void tell(const char* what, char* error, int64_t size) {
  if (error && size > 0) std::snprintf(error, size_t(size), "%s", what);
}

template <class F>
auto guarded(char* error, int64_t size, F f) -> decltype(f()) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    tell("out of memory", error, size);
  } catch (const std::exception& failure) {
    tell(failure.what(), error, size);
  }
  return decltype(f())(0);
}

// Not 0 where f fails.
template <class F>
int32_t attempted(char* error, int64_t size, F f) {
  return guarded(error, size, [&] { return f(), true; }) ? 0 : 1;
}

std::vector<Size> sizes_of(const FvPlan& plan, const int64_t* sizes) {
  std::vector<Size> given;
  for (size_t i = 0; i < plan.plan->inputs.size(); i++) given.push_back({sizes[2 * i], sizes[2 * i + 1]});
  return given;
}

}  // namespace

int32_t fv_abi() { return kAbi; }

const char* fv_isa(int32_t isa) {
  const Kernels* kernels = kernels_for(static_cast<Isa>(isa));
  return kernels ? kernels->name : nullptr;
}

FvPlan* fv_plan_open(const int64_t* words, int64_t count, const float* params, int64_t param_count, int32_t isa,
                     char* error, int64_t error_size) {
  return guarded(error, error_size, [&] {
    const Kernels* kernels = kernels_for(static_cast<Isa>(isa));
    if (!kernels) throw Error("this processor lacks the instruction set");
    return new FvPlan{std::make_shared<Plan>(words, count, params, param_count, *kernels)};
  });
}

void fv_plan_close(FvPlan* plan) { delete plan; }

int64_t fv_plan_ops(const FvPlan* plan) { return int64_t(plan->plan->ops.size()); }

FvPool* fv_pool_open(int32_t threads) {
  return guarded(nullptr, 0, [&] { return new FvPool{Pool(threads)}; });
}

void fv_pool_close(FvPool* pool) { delete pool; }

int64_t fv_plan_bytes(const FvPlan* plan, const int64_t* sizes, char* error, int64_t error_size) {
  int64_t bytes = -1;
  attempted(error, error_size, [&] { bytes = State::need(plan->plan, sizes_of(*plan, sizes)); });
  return bytes;
}

FvState* fv_state_open(const FvPlan* plan, const int64_t* sizes, int64_t limit, char* error, int64_t error_size) {
  return guarded(error, error_size, [&] { return new FvState{State(plan->plan, sizes_of(*plan, sizes), limit)}; });
}

void fv_state_close(FvState* state) { delete state; }

int64_t fv_state_bytes(const FvState* state) { return state->state.bytes(); }

void fv_state_output(const FvState* state, int64_t index, int64_t shape[3]) {
  const Plan& plan = state->state.plan();
  const Size size = state->state.size(plan.outputs[index]);
  shape[0] = size.height, shape[1] = size.width, shape[2] = plan.tensors[plan.outputs[index]].channels;
}

int32_t fv_state_refer(FvState* state, FvPool* pool, float* const* outputs, char* error, int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.refer(of(pool), outputs); });
}

int32_t fv_state_prepare(FvState* state, const uint8_t* const* dirty, double* work, char* error, int64_t error_size) {
  return attempted(error, error_size, [&] { *work = state->state.prepare(dirty); });
}

int32_t fv_state_follow(FvState* state, const uint8_t* const* dirty, double* work, char* error, int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.follow(dirty, work); });
}

int32_t fv_state_advance(FvState* state, FvPool* pool, int64_t first, int64_t last, int32_t whole,
                         const float* const* inputs, float* const* outputs, char* error, int64_t error_size) {
  return attempted(error, error_size,
                   [&] { state->state.advance(of(pool), first, last, whole != 0, inputs, outputs); });
}

int32_t fv_state_tensor(FvState* state, FvPool* pool, int64_t tensor, int64_t shape[3], float* to, char* error,
                        int64_t error_size) {
  return attempted(error, error_size, [&] {
    const Size size = state->state.shape(tensor);
    shape[0] = size.height, shape[1] = size.width, shape[2] = state->state.plan().tensors[tensor].channels;
    if (to) state->state.write(of(pool), tensor, to);
  });
}

int32_t fv_state_run(FvState* state, FvPool* pool, const float* const* inputs, float* const* outputs, char* error,
                     int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.run(of(pool), inputs, outputs); });
}

int32_t fv_state_limit(FvState* state, const float* limits, char* error, int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.limit(limits); });
}

void fv_state_uses(const FvState* state, float* uses) { state->state.uses(uses); }

int32_t fv_state_rms(const FvState* state, FvPool* pool, float* rms, char* error, int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.rms(of(pool), rms); });
}

double fv_state_work(const FvState* state) { return state->state.work(); }

int64_t fv_state_memory(const FvState* state) { return state->state.memory(); }

void fv_state_save(const FvState* state, uint8_t* to) { state->state.save(to); }

int32_t fv_state_load(FvState* state, FvPool* pool, const uint8_t* from, float* const* outputs, char* error,
                      int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.load(of(pool), from, outputs); });
}

int32_t fv_state_restore(FvState* state, FvPool* pool, float* const* outputs, char* error, int64_t error_size) {
  return attempted(error, error_size, [&] { state->state.restore(of(pool), outputs); });
}
