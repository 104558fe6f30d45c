// Bytes times weights where the processor multiplies 16-bit numbers: the first and third of four, then the others, each
// widened. `multiply_pairs(a, b)`, which the file for an instruction set defines, adds up neighbouring products in 32
// bits. (What multiplies bytes as they are, before VNNI, saturates.)

struct Quad {
  Halves even, odd;
};
typedef Quad Weights;

inline Quad load_quad(const uint8_t* from) {
  int32_t four;
  __builtin_memcpy(&four, from, 4);
  const Integers all = Integers{} + four;
  return {(Halves)(all & 0x00FF00FF), (Halves)((all >> 8) & 0x00FF00FF)};
}

inline Weights load_weights(const int8_t* from) {
  const Halves all = *reinterpret_cast<const LooseHalves*>(from);
  return {all << 8 >> 8, all >> 8};
}

inline void dot(Integers& sum, const Quad& x, const Weights& w) {
  sum += multiply_pairs(x.even, w.even) + multiply_pairs(x.odd, w.odd);
}
