// Numbers at addresses that vectors like.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace foveate {

// Large blocks are mapped by themselves: closed states go back to the system, whatever lies between them.
#if defined(__unix__) || defined(__APPLE__)
constexpr size_t kMapped = 1 << 20;

inline void* allocate_bytes(size_t bytes, std::align_val_t line) {
  if (bytes < kMapped) return ::operator new(bytes, line);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  return at;
}

inline void free_bytes(void* at, size_t bytes, std::align_val_t line) {
  if (bytes < kMapped)
    ::operator delete(at, line);
  else
    munmap(at, bytes);
}
#else
inline void* allocate_bytes(size_t bytes, std::align_val_t line) { return ::operator new(bytes, line); }
inline void free_bytes(void* at, size_t, std::align_val_t line) { ::operator delete(at, line); }
#endif

template <class T>
struct Aligned {
  typedef T value_type;
  static constexpr std::align_val_t kLine{64};  // of a cache, and the longest vector
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(allocate_bytes(n * sizeof(T), kLine)); }
  void deallocate(T* at, size_t n) { free_bytes(at, n * sizeof(T), kLine); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

using Floats = std::vector<float, Aligned<float>>;
using Bytes = std::vector<uint8_t, Aligned<uint8_t>>;

}  // namespace foveate
