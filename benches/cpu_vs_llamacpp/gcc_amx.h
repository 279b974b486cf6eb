// For building llama.cpp with GCC before 12.4 or 13.3 on a CPU with AMX: that compiler takes
// _tile_loadconfig to read 8 bytes instead of 64 (GCC bug 114098), and llama.cpp then crashes.

#if defined(__cplusplus) && defined(__AMX_TILE__)
#include <immintrin.h>

static inline void load_whole_tile_config(const void * config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const char (*)[64]) config));
}

#undef _tile_loadconfig
#define _tile_loadconfig load_whole_tile_config
#endif
