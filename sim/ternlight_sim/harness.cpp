// The simulated device as a process: a Verilated model whose UART is a TCP server on the loopback interface.
//
//   simulator [--port N] [--load FILE] [--idle-exit SECONDS]
//
// One line of JSON on stdout tells the port, once it can be connected to. One client is served at a time, others wait in
// the listener's backlog. What the device sends while no client is there is lost, as on an unplugged cable.
//
// Lines on stdin are commands, each answered by one line of JSON: "save PATH" writes a snapshot, "cycles" only answers.
// The end of stdin ends the process, so that it dies with its parent; so do SIGINT and SIGTERM.
//
// The clock starts with the first client, so that nothing of a snapshot's work in progress is lost, and stands still
// while the device is inactive and both UART lines are quiet: poll() then waits for bytes.
//
// Exit status: 0, or with a message on stderr 4 (the snapshot is refused) or 6 (all else), as in ternlight.errors.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

#include "Vdevice.h"
#include "verilated.h"
#include "verilated_save.h"

// The build defines DIVISOR (clock cycles per bit) and BUILD_KEY (32 characters that name this very build).

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned FRAME_BITS = 10;  // start, eight of data from the low end, stop
constexpr uint64_t QUIET_CYCLES = 256 + 2 * FRAME_BITS * DIVISOR;  // the device has then seen all that came
constexpr size_t RECEIVE_BYTES = 4096;
constexpr size_t BACKLOG_BYTES = 1 << 20;  // unread output at which the device waits for the client
constexpr uint64_t SLICE_MIN = 64, SLICE_MAX = 1 << 16;
constexpr auto SLICE_TIME = std::chrono::microseconds(200);

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct SnapshotRefused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::string reason() { return std::strerror(errno); }

// Verilator's serialisation into memory: its own file class ends the process when the disk is full.
class Serializer final : public VerilatedSerialize {
public:
    void flush() override {
        m_bytes.append(reinterpret_cast<const char*>(m_bufp), m_cp - m_bufp);
        m_cp = m_bufp;
    }
    const std::string& bytes() {
        flush();
        return m_bytes;
    }

private:
    std::string m_bytes;
};

class Deserializer final : public VerilatedDeserialize {
public:
    explicit Deserializer(std::string_view bytes) : m_rest(bytes) {
        m_cp = m_bufp + bufferSize();
        m_endp = m_cp;
    }
    void fill() override {
        const size_t kept = m_endp - m_cp;
        std::memmove(m_bufp, m_cp, kept);
        const size_t added = std::min(bufferSize() - kept, m_rest.size());
        std::memcpy(m_bufp + kept, m_rest.data(), added);
        m_rest.remove_prefix(added);
        m_cp = m_bufp;
        m_endp = m_bufp + kept + added;
    }

private:
    std::string_view m_rest;
};

// What stands before the serialised state in a snapshot.
struct SnapshotHeader {
    char magic[8] = {'T', 'L', 'S', 'N', 'A', 'P', '0', '1'};
    char key[32];
    uint64_t size = 0;
    uint64_t checksum = 0;  // FNV-1a

    explicit SnapshotHeader(std::string_view state) : size(state.size()), checksum(0xCBF29CE484222325) {
        static_assert(sizeof(BUILD_KEY) == sizeof(key) + 1, "a build key has 32 characters");
        std::memcpy(key, BUILD_KEY, sizeof(key));
        for (const unsigned char byte : state) checksum = (checksum ^ byte) * 0x100000001B3;
    }
};

// The model, its clock and the far end of its UART.
class Device {
public:
    std::string output;  // bytes that the device has sent

    Device() { m_top.uart_rx = 1; }

    uint64_t cycles() const { return m_cycle; }
    bool input_empty() const { return m_sent == m_input.size(); }
    bool idle() const { return m_cycle - m_busy_at >= QUIET_CYCLES && input_empty(); }

    // Gives the device bytes when it has taken the ones before.
    void feed(std::string_view bytes) {
        m_input = bytes;
        m_sent = 0;
    }

    // Stops early in the very cycle in which the device becomes idle, so that its cycle count is reproducible.
    void run(uint64_t cycles) {
        for (const uint64_t end = m_cycle + cycles; m_cycle != end && !idle(); ++m_cycle) {
            if (m_bit_left == 0) drive();
            --m_bit_left;
            m_top.clk = 1;
            m_top.eval();
            m_top.clk = 0;
            m_top.eval();
            if (m_top.active) m_busy_at = m_cycle;
            if (m_samples_left != 0 ? --m_sample_in == 0 : m_top.uart_tx == 0) sample();
        }
    }

    std::string snapshot() {
        Serializer os;
        os << m_cycle << m_busy_at << m_frame << m_bits_left << m_bit_left << m_samples << m_samples_left << m_sample_in;
        os << m_input.substr(m_sent) << m_top;
        const SnapshotHeader header{os.bytes()};
        return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + os.bytes();
    }

    void restore(std::string_view snapshot) {
        const std::string_view state = snapshot.substr(std::min(snapshot.size(), sizeof(SnapshotHeader)));
        const SnapshotHeader expected{state};
        const auto equal = [&](const auto& field) {
            const size_t offset = reinterpret_cast<const char*>(&field) - reinterpret_cast<const char*>(&expected);
            return std::memcmp(snapshot.data() + offset, &field, sizeof(field)) == 0;
        };
        if (snapshot.size() < sizeof(expected) || !equal(expected.magic)) throw SnapshotRefused("it is not a snapshot");
        if (!equal(expected.key)) throw SnapshotRefused("it is of another simulator build: make a new one");
        if (!equal(expected.size) || !equal(expected.checksum)) throw SnapshotRefused("it is damaged: make a new one");
        Deserializer is{state};
        is >> m_cycle >> m_busy_at >> m_frame >> m_bits_left >> m_bit_left >> m_samples >> m_samples_left >> m_sample_in;
        is >> m_input >> m_top;
        m_sent = 0;
    }

private:
    // Puts the next bit on uart_rx; an idle line is driven anew in every cycle, so that a byte starts at once.
    void drive() {
        m_bit_left = 1;
        if (m_bits_left == 0 && !input_empty()) {
            const unsigned byte = static_cast<unsigned char>(m_input[m_sent++]);
            m_frame = byte << 1 | 1u << (FRAME_BITS - 1);
            m_bits_left = FRAME_BITS;
        }
        if (m_bits_left == 0) return;
        m_top.uart_rx = m_frame & 1;
        m_frame >>= 1;
        --m_bits_left;
        m_bit_left = DIVISOR;
        m_busy_at = m_cycle;
    }

    // The first low cycle of uart_tx, and from then on the middle of each bit.
    void sample() {
        m_busy_at = m_cycle;
        m_sample_in = DIVISOR;
        if (m_samples_left == 0) {
            m_samples = 0;
            m_samples_left = FRAME_BITS - 1;
            m_sample_in += DIVISOR / 2;
            return;
        }
        m_samples = m_samples >> 1 | m_top.uart_tx << (FRAME_BITS - 2);
        if (--m_samples_left != 0) return;
        if (m_top.uart_tx == 0) {
            throw Failure("the device sent a byte without stop bit in cycle " + std::to_string(m_cycle) +
                          ": its UART does not run at " + std::to_string(DIVISOR) + " cycles a bit");
        }
        output.push_back(static_cast<char>(m_samples & 0xFF));
    }

    VerilatedContext m_context;
    Vdevice m_top{&m_context, "device"};
    uint64_t m_cycle = 0;
    uint64_t m_busy_at = 0;       // the latest cycle in which the device or a line was at work
    std::string m_input;          // bytes on their way to the device
    size_t m_sent = 0;            // of them
    uint32_t m_frame = 0;         // the byte being driven, next bit lowest
    uint32_t m_bits_left = 0;     // of it
    uint32_t m_bit_left = 0;      // cycles of the bit on the line
    uint32_t m_samples = 0;       // the byte being sampled
    uint32_t m_samples_left = 0;  // bits of it, with its stop bit
    uint32_t m_sample_in = 0;     // cycles to the next of them
};

int stop_pipe[2];

void on_signal(int) { [[maybe_unused]] const ssize_t written = write(stop_pipe[1], "", 1); }

class Server {
public:
    Server(uint16_t port, double idle_exit) : m_idle_exit(idle_exit) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        socklen_t length = sizeof(address);
        const int yes = 1;
        m_listener = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(m_listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
        if (bind(m_listener, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(m_listener, 8) != 0 ||
            getsockname(m_listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
            throw Failure("cannot listen on port " + std::to_string(port) + ": " + reason());
        }
        std::printf("{\"port\": %d}\n", ntohs(address.sin_port));
        std::fflush(stdout);
    }

    void serve(Device& device) {
        uint64_t slice = SLICE_MIN;
        while (exchange(device)) {
            if (asleep(device)) continue;
            // Long enough that poll() costs nothing, short enough that a byte does not wait for long.
            const auto begin = Clock::now();
            device.run(slice);
            const auto elapsed = Clock::now() - begin;
            if (elapsed < SLICE_TIME / 2) slice = std::min(slice * 2, SLICE_MAX);
            if (elapsed > SLICE_TIME * 2) slice = std::max(slice / 2, SLICE_MIN);
        }
    }

private:
    bool asleep(const Device& device) const {
        return !m_started || device.idle() || device.output.size() >= BACKLOG_BYTES;
    }

    // Moves bytes and serves commands; waits for them when the device sleeps. False: the process should end.
    bool exchange(Device& device) {
        send_output(device);
        // A client is read only when its last bytes are through, so that TCP throttles it.
        const int client_events = (device.input_empty() ? POLLIN : 0) | (device.output.empty() ? 0 : POLLOUT);
        pollfd fds[] = {
            {STDIN_FILENO, POLLIN, 0},
            {stop_pipe[0], POLLIN, 0},
            {m_client < 0 ? m_listener : m_client, static_cast<short>(m_client < 0 ? POLLIN : client_events), 0},
        };
        const bool sleeping = asleep(device);
        const bool counting = sleeping && m_client < 0 && m_idle_exit > 0;
        const int ready = poll(fds, std::size(fds), !sleeping ? 0 : counting ? static_cast<int>(m_idle_exit * 1000) : -1);
        if (ready < 0) {
            if (errno == EINTR) return true;
            throw Failure("poll: " + reason());
        }
        if (fds[1].revents != 0 || (ready == 0 && counting)) return false;
        if (fds[0].revents != 0 && !read_commands(device)) return false;
        if (fds[2].revents == 0) return true;
        if (m_client < 0) {
            accept_client();
        } else if (fds[2].revents != POLLOUT) {
            receive_input(device);
        }
        return true;
    }

    void accept_client() {
        m_client = accept(m_listener, nullptr, nullptr);
        if (m_client < 0) return;  // it has gone again
        m_started = true;
        const int yes = 1;
        setsockopt(m_client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
        fcntl(m_client, F_SETFL, O_NONBLOCK);
    }

    void drop_client(Device& device) {
        close(m_client);
        m_client = -1;
        device.output.clear();
    }

    void receive_input(Device& device) {
        char buffer[RECEIVE_BYTES];
        const ssize_t got = recv(m_client, buffer, sizeof(buffer), 0);
        if (got > 0) {
            device.feed({buffer, static_cast<size_t>(got)});
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            drop_client(device);
        }
    }

    void send_output(Device& device) {
        if (device.output.empty()) return;
        if (m_client < 0) return device.output.clear();
        const ssize_t sent = send(m_client, device.output.data(), device.output.size(), 0);
        if (sent >= 0) {
            device.output.erase(0, sent);
        } else if (errno != EAGAIN && errno != EINTR) {
            drop_client(device);
        }
    }

    // False at the end of stdin.
    bool read_commands(Device& device) {
        char buffer[4096];
        const ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));
        if (got <= 0) return got < 0 && errno == EINTR;
        m_commands.append(buffer, got);
        for (size_t end; (end = m_commands.find('\n')) != std::string::npos; m_commands.erase(0, end + 1)) {
            command(device, m_commands.substr(0, end));
        }
        return true;
    }

    static void command(Device& device, const std::string& line) {
        std::string error;
        if (line.rfind("save ", 0) == 0) {
            error = save(device, line.substr(5));
        } else if (line != "cycles") {
            error = "unknown command";
        }
        if (error.empty()) {
            std::printf("{\"cycles\": %llu}\n", static_cast<unsigned long long>(device.cycles()));
        } else {
            std::printf("{\"error\": \"%s\"}\n", error.c_str());
        }
        std::fflush(stdout);
    }

    // Writes beside the file and renames, so that a snapshot is whole or absent; returns what went wrong.
    static std::string save(Device& device, const std::string& path) {
        const std::string part = path + ".part";
        std::ofstream file{part, std::ios::binary | std::ios::trunc};
        file << device.snapshot();
        file.close();
        if (file && std::rename(part.c_str(), path.c_str()) == 0) return "";
        const std::string error = reason();
        std::remove(part.c_str());
        return error;
    }

    double m_idle_exit;
    int m_listener;
    int m_client = -1;
    bool m_started = false;  // a client has been there
    std::string m_commands;
};

struct Options {
    uint16_t port = 0;
    std::string load;
    double idle_exit = 0;

    Options(int argc, char** argv) {
        for (int index = 1; index < argc; index += 2) {
            const std::string name = argv[index];
            if (index + 1 == argc) throw Failure("option " + name + " has no value, or is unknown");
            const char* value = argv[index + 1];
            char* end = nullptr;
            if (name == "--load") {
                load = value;
            } else if (name == "--port") {
                const long number = std::strtol(value, &end, 10);
                if (*end != '\0' || number < 0 || number > 65535) throw Failure(name + " must be 0 to 65535, not " + value);
                port = static_cast<uint16_t>(number);
            } else if (name == "--idle-exit") {
                idle_exit = std::strtod(value, &end);
                if (*end != '\0' || !(idle_exit > 0)) throw Failure(name + " must be positive seconds, not " + value);
            } else {
                throw Failure("unknown option " + name);
            }
        }
    }
};

void load(Device& device, const std::string& path) {
    std::ifstream file{path, std::ios::binary};
    const std::string bytes{std::istreambuf_iterator<char>{file}, {}};
    try {
        if (!file.is_open() || file.bad()) throw SnapshotRefused(reason());
        device.restore(bytes);
    } catch (const SnapshotRefused& refused) {
        throw SnapshotRefused("snapshot " + path + ": " + refused.what());
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const Options options{argc, argv};
        if (pipe(stop_pipe) != 0) throw Failure("pipe: " + reason());
        std::signal(SIGPIPE, SIG_IGN);
        std::signal(SIGINT, on_signal);
        std::signal(SIGTERM, on_signal);
        Device device;
        if (!options.load.empty()) load(device, options.load);
        Server{options.port, options.idle_exit}.serve(device);
        return 0;
    } catch (const SnapshotRefused& refused) {
        std::fprintf(stderr, "%s\n", refused.what());
        return 4;
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "%s\n", failure.what());
        return 6;
    }
}
