package wireguard

import (
	"math"
	"math/bits"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sieved is an index of ours that part of the messages to are refused.
type sieved struct {
	index uint32
	part  float64
}

// Where a socket's filter finds things, from the UDP header on.
const (
	sieveType     = 8 + 0
	sieveReceiver = 8 + transReceiver
	sieveRandom   = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM
)

// sieve has the system refuse parts of the transport messages to some of our indices, before they take room in the socket; messages whole,
// as they were joined. An empty list ends that. It needs no privileges.
func (s *socket) sieve(all []sieved) error {
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		if len(all) == 0 {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			return
		}
		program := sieveProgram(all)
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err != nil {
		return err
	}
	return failed
}

// sieveProgram is in classic BPF: a list of indices, of each of which a random number decides.
func sieveProgram(all []sieved) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
		take   = math.MaxUint32
		refuse = 0
	)
	swapped := bits.ReverseBytes32 // it loads big-endian numbers
	out := []unix.SockFilter{
		{Code: load, K: sieveType}, {Code: equal, Jt: 1, K: swapped(typeTransport)}, {Code: answer, K: take}, {Code: load, K: sieveReceiver},
	}
	for _, s := range all {
		out = append(out, unix.SockFilter{Code: equal, Jf: 4, K: swapped(s.index)}, unix.SockFilter{Code: load, K: sieveRandom},
			unix.SockFilter{Code: least, Jf: 1, K: uint32(s.part * math.MaxUint32)}, unix.SockFilter{Code: answer, K: take},
			unix.SockFilter{Code: answer, K: refuse})
	}
	return append(out, unix.SockFilter{Code: answer, K: take})
}

// filled is which part of the socket's receive buffer is taken; zero: unknown. Up to a quarter of it may be what was read just now.
func (in *inbox) filled() float64 {
	_ = in.s.raw.Control(in.look)
	return float64(in.memory[meminfoUsed]) / float64(max(1, in.memory[meminfoSize]))
}

// lookEvery is how often it is looked whether the socket had no room, at most: that is a system call.
const lookEvery = 100 * time.Microsecond

// lost is how many packets found no room in the socket, as far as we have looked: where the socket was full more than one message waits, or a
// long one. The system would say it with each message (SO_RXQ_OVFL), but kernels that are hardened against copies (CONFIG_HARDENED_USERCOPY, Linux 6.12
// and others) end the thread that reads a packet of which a TCP of the same machine has kept a clone, as that of a peer with the kernel's WireGuard has.
func (in *inbox) lost(now instant) uint32 {
	if in.n > 1 || in.n == 1 && in.hdrs[0].n > inboxRoom/4 {
		if now >= in.looked.add(lookEvery) {
			in.looked = now
			_ = in.s.raw.Control(in.look)
		}
	}
	return in.memory[meminfoDrops]
}

// Of struct sk_meminfo.
const (
	meminfoUsed  = 0
	meminfoSize  = 1
	meminfoDrops = 8
	meminfos     = 9
)

func (in *inbox) measure(fd uintptr) {
	size := uint32(unsafe.Sizeof(in.memory))
	_, _, err := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&in.memory)), uintptr(unsafe.Pointer(&size)), 0)
	if err != 0 {
		in.memory[meminfoUsed] = 0
	}
}
