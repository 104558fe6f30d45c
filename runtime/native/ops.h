// Running one op at given positions.
#pragma once
#include <functional>
#include <vector>

#include "maps.h"
#include "pool.h"

namespace foveate {

struct Buffer;
struct Cell;

// `n` numbers of a buffer, from the one at `at` on, as floats: where they stand, or in `room`.
const float* numbers(const Kernels& kernels, const Buffer& from, int64_t at, int64_t n, Floats& room);

// Puts floats there.
void keep(const Kernels& kernels, const float* from, int64_t n, Buffer& to, int64_t at);

// Takes cells [first, last) over once they are computed.
using Settle = std::function<void(int64_t first, int64_t last)>;

// Into the op's buffer or, with `rows`, into [cells][channels] there, which `settle` is called for.
void compute(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x,
             const std::vector<Cell>& cells, Pool::Run& run, float* rows = nullptr, const Settle& settle = nullptr);

}  // namespace foveate
