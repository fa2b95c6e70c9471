// A team of threads that lives as long as the process: spins for a moment between two calls, then sleeps.
#pragma once
#include "types.h"
#include <atomic>

struct Team {
    int n = 1;
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<int> passed{0};
    alignas(64) std::atomic<int> taken[3] = {}; // how far a phase is given out; three take turns
};

// One thread's view of a job.
class Worker {
  public:
    Team &team;
    const int id;
    const Scratch scratch;

    Worker(Team &team, int id, const Scratch &scratch) : team(team), id(id), scratch(scratch) {}
    void barrier();                                                // everyone has arrived; the next phase begins
    bool take(int total, int unit, bool steal, int &from, int &to); // the next piece of 0 … total - 1 in this phase

  private:
    int phase = 0;
    bool started = false;
};

struct Needs {
    size_t sums, positions, packed, rounded, own = 0;
};

// Runs `work` on n threads at once, this one among them. Calls from several threads wait for each other. `all` false: a thread
// that comes when nothing is left is not waited for; then `work` has no barrier and steals all of its pieces. `work` must not
// throw, so it allocates nothing: what it needs is there before it begins. Throws when memory is short; where the system refuses
// a thread, fewer compute, from then on.
void run(int n, const Needs &needs, void (*work)(Worker &, void *), void *data, bool all = true);

bool fewer_threads(); // a thread was refused since this was last asked
