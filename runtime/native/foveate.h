// The C ABI of Foveate's native kernels, which library.py declares for ctypes.
//
// Arrays are C-contiguous and belong to the caller; lengths are in elements. No function throws, keeps a pointer beyond
// the life of what it was given for, or touches global state.
#pragma once
#include <cstdint>

#define FV_API extern "C" __attribute__((visibility("default")))

// Raised whenever a signature or the plan's encoding changes: a library of another version is not loaded.
constexpr int32_t kAbi = 8;

FV_API int32_t fv_abi();

// Rectangles [n, 4] (y0, x0, y1, x1, half open) over the cells of `active` [height, width] that are not 0; see
// rectangles.py. Writes at most `limit`, and returns how many there are; −1 where memory is short.
FV_API int64_t fv_cover(const uint8_t* active, int64_t height, int64_t width, double fixed, const int32_t halo[4],
                        int64_t* rects, int64_t limit);

// What follows reports failure as text: functions that make something return null, others not 0, and write up to
// `error_size` bytes to `error`. Each object is used by one thread at a time, but plans, which are never changed.
typedef struct FvPlan FvPlan;
typedef struct FvState FvState;
typedef struct FvPool FvPool;

// The instruction set that `isa` stands for (0: the best here), or null where it cannot run.
FV_API const char* fv_isa(int32_t isa);

// `words` is a plan as plan.py encodes it, with its weights and other numbers in `params`; both are copied.
FV_API FvPlan* fv_plan_open(const int64_t* words, int64_t count, const float* params, int64_t param_count, int32_t isa,
                            char* error, int64_t error_size);
FV_API void fv_plan_close(FvPlan*);
FV_API int64_t fv_plan_ops(const FvPlan*);

// Threads that share the work of one run at a time, with the caller among them.
FV_API FvPool* fv_pool_open(int32_t threads);
FV_API void fv_pool_close(FvPool*);

// Compares two images of [channels, height, width], on the threads of a pool (null: on this one). `moved`: 1 where any
// channel differs by more than the threshold, 0 elsewhere; `counts`: how many of them lie in each block × block
// positions, [⌈height ÷ block⌉, ⌈width ÷ block⌉]; not for blocks of 1, where `moved` says it. Returns 1 where a value of
// `now` is NaN or infinite, and then the rest says nothing.
FV_API int32_t fv_compare(FvPool*, const float* now, const float* last, int64_t channels, int64_t height, int64_t width,
                          float threshold, int64_t block, uint8_t* moved, int32_t* counts);
// Whether none is NaN or infinite.
FV_API int32_t fv_finite(FvPool*, const float* values, int64_t count);
// Makes the positions of each block what `blocks` says of it: 0 or 1.
FV_API void fv_fill(const uint8_t* blocks, int64_t height, int64_t width, int64_t block, uint8_t* positions);
// last ← now where `dirty` is 1.
FV_API void fv_accept(FvPool*, const float* now, float* last, int64_t channels, int64_t height, int64_t width,
                      const uint8_t* dirty);

// What fv_state_open would take for them, in bytes; −1 on failure.
FV_API int64_t fv_plan_bytes(const FvPlan*, const int64_t* sizes, char* error, int64_t error_size);
// Buffers for inputs of these sizes (height and width of each), of at most `limit` bytes while they are made.
FV_API FvState* fv_state_open(const FvPlan*, const int64_t* sizes, int64_t limit, char* error, int64_t error_size);
FV_API void fv_state_close(FvState*);
FV_API int64_t fv_state_bytes(const FvState*);
// Height, width and channels of output `index`.
FV_API void fv_state_output(const FvState*, int64_t index, int64_t shape[3]);

// Computes every tensor for inputs that are zero and keeps it as the reference. Outputs, [channels, height, width]
// each, are written whole.
FV_API int32_t fv_state_refer(FvState*, FvPool*, float* const* outputs, char* error, int64_t error_size);

// Finds what differs from the reference where these inputs are dirty: [height, width] of bytes each, null for
// everywhere. `work` becomes the multiply-adds that it takes.
FV_API int32_t fv_state_prepare(FvState*, const uint8_t* const* dirty, double* work, char* error, int64_t error_size);

// The same for a stream, whose reference is what the state holds from the frame before. `work`: of each op, all 0 where
// limits leave it open. Not after fv_state_refer.
FV_API int32_t fv_state_follow(FvState*, const uint8_t* const* dirty, double* work, char* error, int64_t error_size);

// Computes what `follow` found of the ops from `first` up to `last`, and writes the outputs among them. The first call
// of a frame begins with op 0 and reads the inputs, each other one where the last ended; a frame may end before the last
// op. What lies behind is then stale: it is to be computed `whole`, at all positions, when it is computed next.
FV_API int32_t fv_state_advance(FvState*, FvPool*, int64_t first, int64_t last, int32_t whole,
                                const float* const* inputs, float* const* outputs, char* error, int64_t error_size);
// Height, width and channels of a tensor of floats, which is written to `to` as [channels, height, width], unless null.
FV_API int32_t fv_state_tensor(FvState*, FvPool*, int64_t tensor, int64_t shape[3], float* to, char* error,
                               int64_t error_size);

// Of a stream: positions of tensor t that moved by at most limits[t] in every channel stay what they were, and what reads
// them is not computed again. 0: everything is passed on.
FV_API int32_t fv_state_limit(FvState*, const float* limits, char* error, int64_t error_size);
// Multiply-adds that read each number of a tensor, on average.
FV_API void fv_state_uses(const FvState*, float* uses);
// The root mean square of each tensor.
FV_API int32_t fv_state_rms(const FvState*, FvPool*, float* rms, char* error, int64_t error_size);
// Multiply-adds of the last run or advance.
FV_API double fv_state_work(const FvState*);
// All that the state of a stream holds, as fv_state_memory bytes. It fits states of the same plan and sizes, which write
// their outputs whole.
FV_API int64_t fv_state_memory(const FvState*);
FV_API void fv_state_save(const FvState*, uint8_t* to);
FV_API int32_t fv_state_load(FvState*, FvPool*, const uint8_t* from, float* const* outputs, char* error,
                             int64_t error_size);

// Computes what fv_state_prepare found from inputs of [channels, height, width], and writes it to the outputs.
FV_API int32_t fv_state_run(FvState*, FvPool*, const float* const* inputs, float* const* outputs, char* error,
                            int64_t error_size);

// Sets what was computed back to the reference, in the outputs, too (null: in none).
FV_API int32_t fv_state_restore(FvState*, FvPool*, float* const* outputs, char* error, int64_t error_size);

// onnxruntime calls this one, with a session's options and its OrtApiBase, where the library is registered for custom
// ops: the session then runs ai.foveate::DeformableSample by these kernels, in place of its function body, with the
// instruction set that its config entry "foveate.isa" has the number of. Gives null, or onnxruntime's status. What it
// registers stays in memory, for sessions refer to it.
FV_API void* RegisterCustomOps(void* options, const void* base);
