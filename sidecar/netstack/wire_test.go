package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wireguard"
)

// newStack makes stack i at 10.9.0.i and fd09::i.
func newStack(t testing.TB, i byte, mtu int) *Stack {
	t.Helper()
	s, err := New(Options{Interface: datapath.Interface{MTU: mtu, Addresses: []netip.Prefix{
		netip.PrefixFrom(v4(i), 24), netip.PrefixFrom(v6(i), 64),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func v4(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, i}) }
func v6(i byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: i}) }

// wire is an engine that delivers what one stack sends to another as it is, and shows each packet to see.
type wire struct {
	mtu int
	to  *Stack // nil: nowhere
	see func([]byte)
	// drop says what is lost; nil: nothing.
	drop func([]byte) bool
}

func (w *wire) PathMTU(netip.Addr) int { return 0 }

func (w *wire) NewBatch(size int) *wireguard.Batch { return wireguard.NewBatch(size, w.mtu) }

func (w *wire) Send(_ netip.Addr, b *wireguard.Batch) {
	defer b.Free()
	packets := make([][]byte, 0, b.Len())
	for i := range b.Len() {
		p := b.Packet(i)
		if w.see != nil {
			w.see(p)
		}
		if w.drop == nil || !w.drop(p) {
			packets = append(packets, p)
		}
	}
	if w.to != nil {
		w.to.Deliver(packets, 0)
	}
}

// wired makes two stacks joined by a perfect wire.
func wired(t testing.TB, mtu int, see func([]byte)) (a, b *Stack) {
	t.Helper()
	a, b = newStack(t, 1, mtu), newStack(t, 2, mtu)
	a.Connect(&wire{mtu: mtu, to: b, see: see})
	b.Connect(&wire{mtu: mtu, to: a, see: see})
	return a, b
}

// checkPacket says what a picky receiver would object to.
func checkPacket(b []byte, mtu int) error {
	if len(b) > mtu {
		return errors.New("longer than the MTU")
	}
	var src, dst, trans []byte
	var proto byte
	if b[0]>>4 == 4 {
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || checksum.Checksum(b[:20], 0) != 0xffff {
			return errors.New("IPv4 header is wrong")
		}
		src, dst, trans, proto = b[12:16], b[16:20], b[20:], b[9]
	} else {
		if int(binary.BigEndian.Uint16(b[4:]))+40 != len(b) {
			return errors.New("IPv6 length is wrong")
		}
		src, dst, trans, proto = b[8:24], b[24:40], b[40:], b[6]
	}
	if proto != byte(header.TCPProtocolNumber) {
		return nil
	}
	sum := checksum.Combine(checksum.Checksum(src, 0), checksum.Checksum(dst, 0))
	sum = checksum.Combine(sum, uint16(proto))
	sum = checksum.Combine(sum, uint16(len(trans)))
	if checksum.Checksum(trans, sum) != 0xffff {
		return errors.New("TCP checksum is wrong")
	}
	return nil
}

// accept has what peers open to the stack.
func accept(t testing.TB, s *Stack) <-chan datapath.Stream {
	accepted := make(chan datapath.Stream, 1)
	s.HandleTCP(func(q datapath.TCPRequest) {
		c, err := q.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	})
	return accepted
}

func connect(t testing.TB, a, b *Stack, to netip.Addr) (client, server datapath.Stream) {
	t.Helper()
	accepted := accept(t, b)
	c, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := a.DialTCP(c, netip.AddrPortFrom(to, 80))
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

// TestPacketsOnTheWire checks every packet of a transfer at several MTUs, and that full ones come in aligned batches.
func TestPacketsOnTheWire(t *testing.T) {
	for _, mtu := range []int{1280, 1420, 8920, 65455} {
		for _, to := range []netip.Addr{v4(2), v6(2)} {
			bad := make(chan error, 1)
			a, b := wired(t, mtu, func(p []byte) {
				if err := checkPacket(p, mtu); err != nil {
					select {
					case bad <- err:
					default:
					}
				}
			})
			client, server := connect(t, a, b, to)
			const size = 8 << 20
			go func() {
				_, _ = client.Write(make([]byte, size))
				_ = client.CloseWrite()
			}()
			n, err := io.Copy(io.Discard, server)
			if n != size || err != nil {
				t.Fatalf("MTU %d to %s: read %d, %v", mtu, to, n, err)
			}
			select {
			case err := <-bad:
				t.Fatalf("MTU %d to %s: %v", mtu, to, err)
			default:
			}
			t.Logf("MTU %d to %s: %d packets for %d bytes, %d joined", mtu, to, a.Stats().TxPackets, size, b.Stats().RxMerged)
			_ = client.Close()
			_ = server.Close()
			_, _ = a.Close(), b.Close()
		}
	}
}

// TestTailLoss loses the end of a burst, hundreds of packets with nothing behind them, as a socket does that overflows: the stream goes
// on after one timeout, or two, and not with two packets after each. On a busy machine the first timeout may come before there is a burst.
func TestTailLoss(t *testing.T) {
	for range 10 {
		lost, timeouts := tailLoss(t)
		t.Logf("%d packets were lost, %d timeouts", lost, timeouts)
		if timeouts > 3 {
			t.Errorf("%d timeouts after %d packets were lost", timeouts, lost)
		}
		if lost >= 50 {
			return
		}
	}
	t.Error("there was no burst")
}

func tailLoss(t *testing.T) (lost int, timeouts uint64) {
	t.Helper()
	const mtu, whole = 1420, 600
	a, b := newStack(t, 1, mtu), newStack(t, 2, mtu)
	var mu sync.Mutex
	seen := 0
	var highest uint32
	over := false
	a.Connect(&wire{mtu: mtu, to: b, drop: func(p []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		tcp := header.TCP(p[20:])
		end := tcp.SequenceNumber() + uint32(len(p)-20-int(tcp.DataOffset()))
		isNew := highest == 0 || int32(end-highest) > 0
		if isNew {
			highest = end
			seen++
		}
		if over = over || lost > 0 && !isNew; over || seen <= whole {
			return false
		}
		lost++
		return true
	}})
	b.Connect(&wire{mtu: mtu, to: a})
	client, server := connect(t, a, b, v4(2))
	const size = 4 << 20
	go func() {
		_, _ = client.Write(make([]byte, size))
		_ = client.CloseWrite()
	}()
	_ = server.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if n, err := io.Copy(io.Discard, server); n != size || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	mu.Lock()
	defer mu.Unlock()
	return lost, a.ip.Stats().TCP.Timeouts.Value()
}

// TestPing sends echo requests and reads the answers off the wire.
func TestPing(t *testing.T) {
	s := newStack(t, 1, 1420)
	got := make(chan []byte, 1)
	s.Connect(&wire{mtu: 1420, see: func(p []byte) { got <- bytes.Clone(p) }})
	for _, request := range [][]byte{echo4(v4(9), v4(1)), echo6(v6(9), v6(1))} {
		s.Deliver([][]byte{request}, 0)
		select {
		case reply := <-got:
			if l := len(reply); l != len(request) || string(reply[l-4:]) != "ping" {
				t.Fatalf("reply %x", reply)
			}
		case <-time.After(3 * time.Second):
			t.Fatalf("no reply; %+v", s.Stats())
		}
	}
}

func echo4(src, dst netip.Addr) []byte {
	b := make([]byte, 32)
	header.IPv4(b).Encode(&header.IPv4Fields{
		TotalLength: 32, TTL: 64, Protocol: 1, SrcAddr: toTCPIP(src), DstAddr: toTCPIP(dst),
	})
	icmp := header.ICMPv4(b[20:])
	icmp.SetType(header.ICMPv4Echo)
	copy(b[28:], "ping")
	icmp.SetChecksum(header.ICMPv4Checksum(icmp[:8], checksum.Checksum(b[28:], 0)))
	return b
}

func echo6(src, dst netip.Addr) []byte {
	b := make([]byte, 52)
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: 12, HopLimit: 64, TransportProtocol: header.ICMPv6ProtocolNumber,
		SrcAddr: toTCPIP(src), DstAddr: toTCPIP(dst),
	})
	icmp := header.ICMPv6(b[40:])
	icmp.SetType(header.ICMPv6EchoRequest)
	copy(b[48:], "ping")
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp[:8], Src: toTCPIP(src), Dst: toTCPIP(dst), PayloadCsum: checksum.Checksum(b[48:], 0), PayloadLen: 4,
	}))
	return b
}

// TestForeignDestinations writes a request to every address that is not the interface's own.
func TestForeignDestinations(t *testing.T) {
	s := newStack(t, 1, 1420)
	s.HandleTCP(func(q datapath.TCPRequest) { t.Errorf("request for %s", q.Local()); q.Refuse() })
	for _, dst := range []string{
		"127.0.0.1", "127.77.0.1", "0.0.0.0", "255.255.255.255", "10.9.0.255", "10.9.0.2", "169.254.169.254", "224.0.0.1",
		"::1", "::", "fe80::1", "ff02::1", "fd09::2", "::ffff:10.9.0.1", "::ffff:127.0.0.1", "::10.9.0.1", "64:ff9b::a09:1",
	} {
		before := s.Stats()
		to := netip.MustParseAddr(dst)
		b := echo6(v6(9), to)
		if to.Is4() {
			b = echo4(v4(9), to)
		}
		s.Deliver([][]byte{b}, 0)
		if now := s.Stats(); now.DropDestination != before.DropDestination+1 || now.RxPackets != before.RxPackets {
			t.Errorf("%s: %+v", dst, now)
		}
	}
	for _, src := range []string{"127.0.0.1", "0.0.0.0", "10.9.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::1", "fd09::1", "::ffff:1.2.3.4", "ff02::1"} {
		before := s.Stats().DropSource
		from := netip.MustParseAddr(src)
		b := echo6(from, v6(1))
		if from.Is4() {
			b = echo4(from, v4(1))
		}
		s.Deliver([][]byte{b}, 0)
		if n := s.Stats().DropSource; n != before+1 {
			t.Errorf("source %s was delivered", src)
		}
	}
}

// TestChurn opens and closes many connections to one destination, the client closing first.
func TestChurn(t *testing.T) {
	cycles := 5000
	if testing.Short() {
		cycles = 500
	}
	a, b := wired(t, 1420, nil)
	b.HandleTCP(func(q datapath.TCPRequest) {
		c, err := q.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	to := netip.AddrPortFrom(v4(2), 80)
	start := time.Now()
	var first time.Duration
	for i := range cycles {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		c, err := a.DialTCP(ctx, to)
		cancel()
		if err != nil {
			t.Fatalf("connection %d after %s: %v", i, time.Since(start), err)
		}
		_, _ = c.Write([]byte("x"))
		_ = c.Close()
		if i == cycles/2 {
			first = time.Since(start)
		}
	}
	second := time.Since(start) - first
	t.Logf("%d connections in %s", cycles, time.Since(start))
	if second > 4*first+time.Second {
		t.Errorf("the second half took %s, the first %s", second, first)
	}
}

// FuzzWrite feeds arbitrary bytes to the inbound path: nothing may panic, what leaves is whole and from the stack's own addresses, and who asks
// for an echo afterwards gets it: nothing has locked up, or run out.
func FuzzWrite(f *testing.F) {
	s := newStack(f, 1, 1420)
	s.HandleTCP(func(q datapath.TCPRequest) { q.Refuse() })
	s.HandleUDP(func(q datapath.UDPRequest) { q.Refuse() })
	left := make(chan []byte, 64)
	s.Connect(&wire{mtu: 1420, see: func(b []byte) {
		if err := checkPacket(b, 1420); err != nil {
			panic(err)
		}
		if from := sourceOf(b); from != v4(1) && from != v6(1) {
			panic(fmt.Sprintf("a packet left as %s: %x", from, b))
		}
		select {
		case left <- bytes.Clone(b):
		default: // nobody waits for that many
		}
	}})
	f.Add([]byte{}, []byte{})
	f.Add(echo4(v4(9), v4(1)), echo6(v6(9), v6(1)))
	for _, flags := range []byte{0x02, 0x10, 0x18, 0x11, 0x04, 0x29} {
		tcp := append(echo4(v4(9), v4(1)), make([]byte, 20)...)
		tcp[3], tcp[9], tcp[32], tcp[33] = byte(len(tcp)), 6, 0x50, flags
		f.Add(tcp, tcp)
		six := append(echo6(v6(9), v6(1)), make([]byte, 20)...)
		six[5], six[6], six[52], six[53] = byte(len(six)-40), 6, 0x50, flags
		f.Add(six, tcp)
		frag := append([]byte(nil), tcp...)
		frag[6], frag[9] = 0x20, 17
		f.Add(frag, six)
	}
	f.Fuzz(func(t *testing.T, x, y []byte) {
		// The engine's buffers are written to, so it gets copies.
		clone := func(b []byte) []byte { return append([]byte(nil), b...) }
		s.Deliver([][]byte{clone(x), clone(y), clone(x)}, 0)
		for len(left) > 0 {
			<-left
		}
		for _, ask := range [][]byte{echo4(v4(77), v4(1)), echo6(v6(77), v6(1))} {
			s.Deliver([][]byte{ask}, 0)
			for answered, late := false, time.After(10*time.Second); !answered; {
				select {
				case b := <-left:
					answered = destinationOf(b) == sourceOf(ask)
				case <-late:
					t.Fatalf("no echo for %s any more", sourceOf(ask))
				}
			}
		}
	})
}

func sourceOf(b []byte) netip.Addr {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16([16]byte(b[8:]))
}

func destinationOf(b []byte) netip.Addr {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[16:]))
	}
	return netip.AddrFrom16([16]byte(b[24:]))
}
