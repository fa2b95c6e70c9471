#include "threads.h"
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
static inline void pause_cpu() { __builtin_ia32_pause(); }
#else
static inline void pause_cpu() {}
#endif

namespace {

std::atomic<bool> told{false}; // that a thread was refused

// Short spins, then the processor is offered to others: on a busy machine the awaited thread may need it.
template <class F> void wait_for(F ready) {
    for (int i = 0; !ready(); i++) {
        if (i < 2000)
            pause_cpu();
        else
            std::this_thread::yield();
    }
}

struct Arena { // grows, never shrinks: one a thread
    float *data = nullptr;
    size_t size = 0;
    float *get(size_t n) {
        if (n > size) {
            const size_t wanted = (n + 1023) / 1024 * 1024;
            std::free(data);
            size = 0;
            data = static_cast<float *>(std::aligned_alloc(64, wanted * sizeof(float)));
            if (!data) throw std::bad_alloc();
            std::memset(data, 0, wanted * sizeof(float));
            size = wanted;
        }
        return data;
    }
};

struct Pool {
    const pid_t owner = getpid();
    std::mutex one_call, sleep;
    std::condition_variable wake;
    std::atomic<uint64_t> call{0}; // number of the call * 256 + its threads, so that both are read at once
    std::atomic<int> open{0}, sleepers{0};
    std::atomic<uint64_t> door{0}; // number of the call * 512 + 256 once it is closed + how many workers are inside
    int started = 0; // workers besides the caller
    bool refused = false; // the system gives no more
    Arena arenas[MAX_THREADS], own[MAX_THREADS];
    Team team;
    Needs needs;
    void (*work)(Worker &, void *);
    void *data;
    size_t sums, scores, packed, rounded; // floats of each thread

    // Before the call begins: memory for n threads, so that none of them can fail. Also sets what `scratch` gives out.
    void prepare(int n) {
        const size_t blocks = needs.positions / POSITIONS + 1;
        sums = (needs.sums + 15) / 16 * 16, scores = FOUR * needs.positions;
        packed = (needs.packed + 15) / 16 * 16, rounded = (needs.rounded + 15) / 16 * 16;
        for (int id = 0; id < n; id++) {
            arenas[id].get(GROUP * LANES + sums + scores + packed + rounded + 2 * blocks);
            own[id].get(needs.own);
        }
    }

    // How many of n threads there are, this one among them; those that are missing are started.
    int gather(int n) {
        while (started < n - 1 && !refused) {
            try {
                std::thread([this, id = started + 1] { serve(id); }).detach();
                started++;
            } catch (const std::exception &) {
                refused = told = true;
            }
        }
        return n < started + 1 ? n : started + 1;
    }

    void job(int id) {
        const size_t tile = GROUP * LANES;
        float *p = arenas[id].data;
        Scratch scratch;
        scratch.tile = p, p += tile;
        scratch.sums = p, p += sums;
        scratch.scores = p, p += scores;
        scratch.packed = p, p += packed;
        scratch.q = reinterpret_cast<int8_t *>(p), p += rounded;
        scratch.blocks = reinterpret_cast<const void **>(p);
        scratch.own = own[id].data;
        Worker worker(team, id, scratch);
        work(worker, data);
    }

    bool enter(uint64_t number) { // false: that call went on without this worker
        uint64_t seen = door.load();
        do
            if (seen / 256 != number * 2) return false;
        while (!door.compare_exchange_weak(seen, seen + 1));
        return true;
    }

    void serve(int id) {
        uint64_t done = 0;
        for (;;) {
            for (int i = 0; i < 4000 && call.load() == done; i++) pause_cpu();
            if (call.load() == done) {
                std::unique_lock<std::mutex> lock(sleep);
                sleepers++;
                wake.wait(lock, [&] { return call.load() != done; });
                sleepers--;
            }
            done = call.load();
            if (id < int(done % 256) && enter(done / 256)) {
                job(id);
                open--;
                door--;
            }
        }
    }
};

std::atomic<Pool *> pool{nullptr};

Pool &current() { // a forked child has no threads: it begins anew
    Pool *p = pool.load();
    if (!p || p->owner != getpid()) {
        Pool *fresh = new Pool;
        if (pool.compare_exchange_strong(p, fresh)) return *fresh;
        delete fresh;
        return *pool.load();
    }
    return *p;
}

} // namespace

void Worker::barrier() {
    phase++;
    if (team.n > 1) {
        const int before = team.passed.load();
        if (team.arrived.fetch_add(1) + 1 == team.n) {
            team.arrived = 0;
            team.taken[(phase + 1) % 3] = 0;
            team.passed = before + 1;
        } else {
            wait_for([&] { return team.passed.load() != before; });
        }
    }
    started = false;
}

bool Worker::take(int total, int unit, bool steal, int &from, int &to) {
    const int pieces = (total + unit - 1) / unit;
    int a, b;
    if (team.n == 1 || !steal) {
        if (started) return false;
        started = true;
        a = int(int64_t(pieces) * id / team.n), b = int(int64_t(pieces) * (id + 1) / team.n);
        if (a == b) return false;
    } else {
        std::atomic<int> &taken = team.taken[phase % 3];
        a = taken.load();
        do {
            if (a >= pieces) return false;
            const int left = pieces - a;
            b = a + (left / (2 * team.n) > 1 ? left / (2 * team.n) : 1);
        } while (!taken.compare_exchange_weak(a, b));
    }
    from = a * unit;
    to = b * unit < total ? b * unit : total;
    return true;
}

bool fewer_threads() { return told.exchange(false); }

void run(int n, const Needs &needs, void (*work)(Worker &, void *), void *data, bool all) {
    Pool &p = current();
    std::lock_guard<std::mutex> lock(p.one_call);
    p.needs = needs, p.work = work, p.data = data;
    n = p.gather(n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n);
    p.prepare(n);
    p.team.n = n;
    p.team.arrived = 0;
    for (auto &taken : p.team.taken) taken = 0;
    if (n > 1) {
        const uint64_t number = p.call.load() / 256 + 1;
        p.open = n - 1;
        p.door = number * 512;
        p.call = number * 256 + n;
        if (p.sleepers.load()) {
            std::lock_guard<std::mutex> asleep(p.sleep);
            p.wake.notify_all();
        }
    }
    p.job(0);
    if (n == 1) return;
    if (all) wait_for([&] { return p.open.load() == 0; });
    p.door.fetch_or(256);
    wait_for([&] { return p.door.load() % 256 == 0; });
}
