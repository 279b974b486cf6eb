// For building llama.cpp with GCC 12.2 on a CPU with AMX: that compiler takes _tile_loadconfig to
// read less than its 64 bytes, leaves the rest of them unwritten, and llama.cpp crashes.

#if defined(__cplusplus) && defined(__AMX_TILE__)
#include <immintrin.h>

static inline void load_whole_tile_config(const void * config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const char (*)[64]) config));
}

#undef _tile_loadconfig
#define _tile_loadconfig load_whole_tile_config
#endif
