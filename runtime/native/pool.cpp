#include "pool.h"

#include <chrono>

namespace foveate {
namespace {

constexpr auto kPatience = std::chrono::microseconds(50);  // of active waiting, before a thread sleeps within a run

inline void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; i++) workers_.emplace_back([this] { serve(); });
}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::serve() {
  for (auto since = std::chrono::steady_clock::now();;) {
    if (take()) {
      since = std::chrono::steady_clock::now();
      continue;
    }
    for (int i = 0; i < 32; i++) pause();
    if (running_.load(std::memory_order_relaxed) && std::chrono::steady_clock::now() - since < kPatience) continue;
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return closing_ || uint32_t(ticket_.load()); });
    sleepers_.fetch_sub(1);
    if (closing_) return;
    since = std::chrono::steady_clock::now();
  }
}

bool Pool::take() {
  uint64_t ticket = ticket_.load();
  do {
    if (!uint32_t(ticket)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1));
  (*work_)(uint32_t(ticket) - 1);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

Pool::Run::Run(Pool* pool) : pool_(pool) {
  owned_ = pool && pool->threads() > 1 && pool->owner_.try_lock();
  if (owned_) pool->running_.store(true, std::memory_order_relaxed);
}

Pool::Run::~Run() {
  if (!owned_) return;
  pool_->running_.store(false, std::memory_order_relaxed);
  pool_->owner_.unlock();
}

void Pool::Run::each(int64_t count, const std::function<void(int64_t)>& work) {
  if (!owned_ || count < 2) {
    for (int64_t unit = 0; unit < count; unit++) work(unit);
    return;
  }
  Pool& pool = *pool_;
  pool.work_ = &work;
  pool.done_.store(0, std::memory_order_relaxed);
  const uint64_t piece = (pool.ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  pool.ticket_.store(piece << 32 | static_cast<uint64_t>(count));
  if (pool.sleepers_.load()) {
    { std::lock_guard lock(pool.mutex_); }  // a thread that is about to sleep looks at the ticket under it
    pool.wake_.notify_all();
  }
  while (pool.take()) {
  }
  while (pool.done_.load(std::memory_order_acquire) < count) pause();
}

}  // namespace foveate
