// Which kernels this processor can run.
#include <initializer_list>

#include "kernels.h"

namespace foveate {

namespace portable { const Kernels* kernels(); }

#ifdef __x86_64__
namespace avx2 { const Kernels* kernels(); }
namespace avx512 {
const Kernels* kernels();
const Kernels* kernels_vnni();
}

namespace {

const Kernels* avx2_here() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2::kernels() : nullptr;
}

const Kernels* avx512_here() {
  const bool has = avx2_here() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return has ? avx512::kernels() : nullptr;
}

const Kernels* vnni_here() {
  return avx512_here() && __builtin_cpu_supports("avx512vnni") ? avx512::kernels_vnni() : nullptr;
}

}  // namespace
#else
namespace {

const Kernels* avx2_here() { return nullptr; }
const Kernels* avx512_here() { return nullptr; }
const Kernels* vnni_here() { return nullptr; }

}  // namespace
#endif

const Kernels* kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return portable::kernels();
    case Isa::kAvx2: return avx2_here();
    case Isa::kAvx512: return avx512_here();
    case Isa::kAvx512Vnni: return vnni_here();
    case Isa::kBest: break;
    default: return nullptr;
  }
  for (const Kernels* found : {vnni_here(), avx512_here(), avx2_here()})
    if (found) return found;
  return portable::kernels();
}

}  // namespace foveate
