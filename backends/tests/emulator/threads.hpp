// The threads of a block as fibers on one thread of the host, which change where they wait for each
// other: for the block, or for the lanes of a warp.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <sys/mman.h>

#include "host.hpp"

namespace glm {

extern "C" void glm_switch(void** save, void* load);
asm(R"(
.text
.globl glm_switch
.hidden glm_switch
glm_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fiber {
    void* stack;
    void* place;
    State state;
    unsigned turn;
};

struct Warp {
    unsigned char slots[2][32][16];
    unsigned lanes, waiting, gone;
};

// Runs blocks one after the other.
struct Blocks {
    static const size_t STACK = 256 << 10;
    static const unsigned MOST = 1024;

    Host host{};
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    void* scheduler = nullptr;
    unsigned current = 0, live = 0, at_block = 0;
    void (*kernel)(void**) = nullptr;
    void** args = nullptr;

    static Blocks& get() {
        static Blocks blocks;
        return blocks;
    }

    Blocks() : fibers(MOST), warps(MOST / 32) {
        for (Fiber& fiber : fibers) {
            fiber.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (fiber.stack == MAP_FAILED) std::abort();
        }
        host.sync_block = [] { get().wait(AT_BLOCK); };
        host.sync_warp = [] { get().wait(AT_WARP); };
    }

    void run() {
        unsigned count = host.threads.x * host.threads.y * host.threads.z;
        live = count;
        at_block = 0;
        for (unsigned warp = 0; warp * 32 < count; ++warp) {
            unsigned left = count - warp * 32;
            warps[warp].lanes = left < 32 ? left : 32;
            warps[warp].waiting = warps[warp].gone = 0;
        }
        for (unsigned index = 0; index < count; ++index) {
            Fiber& fiber = fibers[index];
            void** top = (void**)((char*)fiber.stack + STACK) - 1;
            *top = nullptr;
            *--top = (void*)+[] { get().begin(); };
            for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
            fiber = {fiber.stack, top, READY, 0};
        }
        while (live > 0) {
            bool moved = false;
            for (unsigned index = 0; index < count; ++index) {
                if (fibers[index].state != READY) continue;
                moved = true;
                enter(index);
                glm_switch(&scheduler, fibers[index].place);
            }
            if (!moved && live > 0) {
                std::fprintf(stderr, "emulator: threads of a block wait for each other for ever\n");
                std::abort();
            }
        }
    }

    void enter(unsigned index) {
        current = index;
        unsigned x = host.threads.x, y = host.threads.y;
        host.thread = {index % x, index / x % y, index / (x * y)};
        host.lane = index % 32;
        host.warp = index / 32;
        host.slots = warps[host.warp].slots;
        host.turn = &fibers[index].turn;
    }

    void begin() {
        kernel(args);
        Fiber& fiber = fibers[current];
        fiber.state = DONE;
        live -= 1;
        warps[current / 32].gone += 1;
        release_warp(current / 32);
        release_block();
        glm_switch(&fiber.place, scheduler);
        std::abort();
    }

    void wait(State state) {
        Fiber& fiber = fibers[current];
        fiber.state = state;
        Warp& warp = warps[current / 32];
        if (state == AT_BLOCK) {
            at_block += 1;
            warp.gone += 1;
        } else {
            warp.waiting += 1;
        }
        release_warp(current / 32);
        release_block();
        if (fiber.state != READY) glm_switch(&fiber.place, scheduler);
    }

    // Lanes that are done or wait for the block take no part in what a warp does.
    void release_warp(unsigned index) {
        Warp& warp = warps[index];
        if (warp.waiting == 0 || warp.waiting + warp.gone < warp.lanes) return;
        warp.waiting = 0;
        for (unsigned lane = 0; lane < warp.lanes; ++lane) {
            Fiber& fiber = fibers[index * 32 + lane];
            if (fiber.state == AT_WARP) fiber.state = READY;
        }
    }

    void release_block() {
        if (at_block == 0 || at_block < live) return;
        at_block = 0;
        unsigned count = host.threads.x * host.threads.y * host.threads.z;
        for (unsigned index = 0; index < count; ++index) {
            Fiber& fiber = fibers[index];
            if (fiber.state != AT_BLOCK) continue;
            fiber.state = READY;
            warps[index / 32].gone -= 1;
        }
    }
};

}  // namespace glm
