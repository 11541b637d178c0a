// Seeds that are functions of whole numbers: the mixing of numpy's SeedSequence (after M. E. O'Neill's seed_seq), word by
// word, whose streams numpy promises to keep.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace latentvars {

class SeedWords {
  public:
    // A number as words of 32 bits, the lowest first; 0 is one word.
    void add(std::uint64_t number) {
        words_.push_back(static_cast<std::uint32_t>(number));
        if (number >> 32) words_.push_back(static_cast<std::uint32_t>(number >> 32));
    }

    // The first two words of the sequence.
    std::array<std::uint32_t, 2> state() const {
        std::array<std::uint32_t, POOL> pool{};
        std::uint32_t turn = 0x43b0d7e5u;
        const auto hashed = [&turn](std::uint32_t value) {
            value ^= turn;
            turn *= 0x931e8875u;
            value *= turn;
            return value ^ (value >> 16);
        };
        const auto mixed = [](std::uint32_t x, std::uint32_t y) {
            const std::uint32_t found = 0xca01f9ddu * x - 0x4973f715u * y;
            return found ^ (found >> 16);
        };
        for (std::size_t i = 0; i < POOL; ++i) pool[i] = hashed(i < words_.size() ? words_[i] : 0);
        for (std::size_t from = 0; from < POOL; ++from)
            for (std::size_t to = 0; to < POOL; ++to)
                if (from != to) pool[to] = mixed(pool[to], hashed(pool[from]));
        for (std::size_t from = POOL; from < words_.size(); ++from)
            for (std::uint32_t& to : pool) to = mixed(to, hashed(words_[from]));
        std::array<std::uint32_t, 2> found{};
        turn = 0x8b51f9ddu;
        for (std::size_t i = 0; i < found.size(); ++i) {
            std::uint32_t value = pool[i] ^ turn;
            turn *= 0x58f38dedu;
            value *= turn;
            found[i] = value ^ (value >> 16);
        }
        return found;
    }

  private:
    static constexpr std::size_t POOL = 4;
    std::vector<std::uint32_t> words_;
};

}  // namespace latentvars
