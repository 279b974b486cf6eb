// What the driver and a kernel know of each other. Includes nothing, because `device.hpp` may not.
#pragma once

namespace glm {

struct Index {
    unsigned x, y, z;
};

// What blocks read and write of a buffer. A granule is eight bytes.
struct Counter {
    // Each granule once for each block, and once for all blocks.
    unsigned long long fetched, unique;
    // The last block that touched a granule, counted from 1.
    unsigned* blocks;
    const char* base;
};

// What the driver gives to a kernel; `driver.cpp` fills it in.
struct Host {
    Index thread, block, threads, blocks;
    unsigned lane, warp;
    char* shared;
    // Two slots of 16 bytes for each lane of the warp, used in turn.
    unsigned char (*slots)[32][16];
    unsigned* turn;
    void (*sync_block)();
    void (*sync_warp)();
    // Of each parameter, where there are any.
    Counter** counters;
    unsigned block_number;
};

}  // namespace glm
