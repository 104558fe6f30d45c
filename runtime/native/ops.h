// Running one op at given positions.
#pragma once
#include <vector>

#include "maps.h"
#include "pool.h"

namespace foveate {

struct Buffer;
struct Cell;

void compute(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x,
             const std::vector<Cell>& cells, Pool::Run& run);

}  // namespace foveate
