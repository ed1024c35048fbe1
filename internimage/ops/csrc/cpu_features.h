// Whether this CPU runs what a library was compiled for. Includes nothing of torch.
#pragma once

namespace internimage {

// The instruction set that the flags of this build ask for and this CPU lacks, or null.
inline const char* missing_instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__AVX512F__)
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return "AVX-512";
  }
#endif
#if defined(__AVX2__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return "AVX2";
#endif
#endif
  return nullptr;
}

}  // namespace internimage
