// Threads that share one piece of work at a time.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace foveate {

// Work is a number of units that threads take one after the other. The caller works, too. A second caller that comes
// meanwhile does all of its own work itself: it neither waits nor makes more threads than the pool has.
class Pool {
 public:
  // `threads` with the caller: one makes no thread.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Between two pieces of work of one run, threads wait actively for the next; outside of runs they sleep.
  class Run {
   public:
    explicit Run(Pool* pool);  // a null pool: one thread
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;
    int threads() const { return owned_ ? pool_->threads() : 1; }
    // Calls work(unit) for all 0 ≤ unit < count, each once, and returns when all are done.
    void each(int64_t count, const std::function<void(int64_t)>& work);

   private:
    Pool* pool_;
    bool owned_ = false;
  };

 private:
  void serve();
  bool take();

  std::vector<std::thread> workers_;
  std::mutex mutex_, owner_;
  std::condition_variable wake_;
  bool closing_ = false;
  std::atomic<bool> running_{false};
  std::atomic<int> sleepers_{0};

  // The piece of work at hand: its number in the high half, the units that nobody took yet in the low half. Who takes
  // one by compare and swap knows that the piece, whose caller waits for it, is still there.
  std::atomic<uint64_t> ticket_{0};
  const std::function<void(int64_t)>* work_ = nullptr;
  std::atomic<int64_t> done_{0};
};

}  // namespace foveate
