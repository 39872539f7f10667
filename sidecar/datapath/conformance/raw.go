package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// rawPeer is upstream wireguard-go with nothing inside: the test writes and reads plain inner packets.
type rawPeer struct {
	r      *room
	v4, v6 netip.Addr
	self   key.Public
	wire   *wire
	bind   *repeater
	device *device.Device
}

// raw opens a rawPeer on host 3 as a peer of n.
func (r *room) raw(n *node) *rawPeer {
	r.t.Helper()
	return r.rawOn(3, n, netip.PrefixFrom(inner4(3), 32), netip.PrefixFrom(inner6(3), 128))
}

// rawOn opens a rawPeer on a host, with the addresses of that number, as a peer of n that may use these.
func (r *room) rawOn(host int, n *node, allowed ...netip.Prefix) *rawPeer {
	r.t.Helper()
	priv := key.NewPrivate()
	p := &rawPeer{r: r, v4: inner4(host), v6: inner6(host), self: priv.Public(), wire: newWire(), bind: &repeater{Bind: conn.NewDefaultBind()}}
	d := device.NewDevice(p.wire, p.bind, device.NewLogger(device.LogLevelSilent, ""))
	p.device = d
	r.t.Cleanup(d.Close)
	text := fmt.Sprintf("private_key=%s\nlisten_port=0\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		priv.Hex(), n.priv.Public().Hex(), n.as().Endpoint)
	r.lab.Do(host, func() {
		err := d.IpcSet(text)
		if err == nil {
			err = d.Up()
		}
		if err != nil {
			r.t.Fatal(err)
		}
	})
	n.update(datapath.Peer{PublicKey: p.self, AllowedIPs: allowed})
	p.handshake(n)
	return p
}

// handshake waits until the tunnel carries packets.
func (p *rawPeer) handshake(n *node) {
	p.r.t.Helper()
	for range 50 {
		p.send(packet(p.v4, n.v4, protoICMP, echoRequest(p.v4, n.v4, []byte("first"))))
		if p.receive(time.Second, isEcho(n.v4, "first")) != nil {
			return
		}
	}
	p.r.t.Fatal("the raw peer gets no answer")
}

func (p *rawPeer) send(packet []byte) { p.wire.in <- packet }

// receive returns the first packet that is the wanted one; nil when none came in time.
func (p *rawPeer) receive(d time.Duration, wanted func([]byte) bool) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for {
		select {
		case b := <-p.wire.out:
			if wanted(b) {
				return b
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// unasked is any packet but a late answer to what handshake sent.
func (p *rawPeer) unasked(b []byte) bool {
	from, _, _ := parts(b)
	return !isEcho(from, "first")(b)
}

// wire is a tun.Device whose ends are channels.
type wire struct {
	in, out chan []byte
	events  chan tun.Event
	closed  chan struct{}
	once    sync.Once
}

func newWire() *wire {
	return &wire{in: make(chan []byte, 64), out: make(chan []byte, 1024), events: make(chan tun.Event), closed: make(chan struct{})}
}

func (w *wire) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-w.in:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-w.closed:
		return 0, os.ErrClosed
	}
}

func (w *wire) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		select {
		case w.out <- bytes.Clone(b[offset:]):
		default: // nobody reads: lost, as on a wire
		}
	}
	return len(bufs), nil
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed); close(w.events) })
	return nil
}

func (w *wire) File() *os.File           { return nil }
func (w *wire) MTU() (int, error)        { return mtu, nil }
func (w *wire) Name() (string, error)    { return "raw", nil }
func (w *wire) Events() <-chan tun.Event { return w.events }
func (w *wire) BatchSize() int           { return 1 }

// repeater sends a message with data twice, once it was told to.
type repeater struct {
	conn.Bind
	next atomic.Bool
}

func (b *repeater) Send(bufs [][]byte, to conn.Endpoint) error {
	err := b.Bind.Send(bufs, to)
	data := bufs[0][0] == device.MessageTransportType && len(bufs[0]) > device.MessageKeepaliveSize
	if err == nil && data && b.next.CompareAndSwap(true, false) {
		err = b.Bind.Send(bufs, to)
	}
	return err
}

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// packet puts an IP header before a payload.
func packet(from, to netip.Addr, proto byte, payload []byte) []byte {
	if from.Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		copy(h[12:], from.AsSlice())
		copy(h[16:], to.AsSlice())
		binary.BigEndian.PutUint16(h[10:], checksum(0, h))
		return append(h, payload...)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return append(h, payload...)
}

func checksum(start uint32, b []byte) uint16 {
	sum := start
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// pseudo is the sum of the pseudo header.
func pseudo(from, to netip.Addr, proto byte, size int) uint32 {
	b := append(from.AsSlice(), to.AsSlice()...)
	b = append(b, 0, proto, byte(size>>8), byte(size))
	return uint32(^checksum(0, b))
}

func echoRequest(from, to netip.Addr, data []byte) []byte {
	b := append([]byte{8, 0, 0, 0, 0, 7, 0, 1}, data...)
	if from.Is6() {
		b[0] = 128
		binary.BigEndian.PutUint16(b[2:], checksum(pseudo(from, to, protoICMPv6, len(b)), b))
	} else {
		binary.BigEndian.PutUint16(b[2:], checksum(0, b))
	}
	return b
}

func udpTo(from, to netip.Addr, port uint16) []byte { return udpFrom(40000, from, to, port) }

func udpFrom(own uint16, from, to netip.Addr, port uint16) []byte {
	b := []byte{byte(own >> 8), byte(own), byte(port >> 8), byte(port), 0, 12, 0, 0, 'x', 'x', 'x', 'x'}
	binary.BigEndian.PutUint16(b[6:], checksum(pseudo(from, to, protoUDP, len(b)), b))
	return b
}

func synTo(from, to netip.Addr, port uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	b[7], b[12], b[13], b[14] = 9, 5<<4, 2, 64
	binary.BigEndian.PutUint16(b[16:], checksum(pseudo(from, to, protoTCP, len(b)), b))
	return b
}

// parts takes an IP packet apart; no extension headers are expected.
func parts(b []byte) (from netip.Addr, proto byte, payload []byte) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16])), b[9], b[int(b[0]&15)*4:]
	case len(b) >= 40:
		return netip.AddrFrom16([16]byte(b[8:24])), b[6], b[40:]
	}
	return netip.Addr{}, 0, nil
}

func isEcho(from netip.Addr, data string) func([]byte) bool {
	return func(b []byte) bool {
		src, proto, p := parts(b)
		reply := proto == protoICMP && len(p) > 8 && p[0] == 0 || proto == protoICMPv6 && len(p) > 8 && p[0] == 129
		return reply && src == from && string(p[8:]) == data
	}
}

func isReset(from netip.Addr) func([]byte) bool {
	return func(b []byte) bool {
		src, proto, p := parts(b)
		return src == from && proto == protoTCP && len(p) >= 20 && p[13]&4 != 0
	}
}

func isPortUnreachable(from netip.Addr) func([]byte) bool {
	return func(b []byte) bool {
		src, proto, p := parts(b)
		return src == from && len(p) > 8 && (proto == protoICMP && p[0] == 3 && p[1] == 3 || proto == protoICMPv6 && p[0] == 1 && p[1] == 4)
	}
}

func (p *rawPeer) own(like netip.Addr) netip.Addr {
	if like.Is4() {
		return p.v4
	}
	return p.v6
}

func icmpOf(a netip.Addr) byte {
	if a.Is4() {
		return protoICMP
	}
	return protoICMPv6
}

// counters are what upstream says that it has sent and received.
func (p *rawPeer) counters() (rx, tx uint64) {
	p.r.t.Helper()
	text, err := p.device.IpcGet()
	if err != nil {
		p.r.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		_, _ = fmt.Sscanf(line, "rx_bytes=%d", &rx)
		_, _ = fmt.Sscanf(line, "tx_bytes=%d", &tx)
	}
	return rx, tx
}

// agree waits until n has counted what upstream has.
func (p *rawPeer) agree(n *node, after string) {
	p.r.t.Helper()
	var rx, tx uint64
	var s datapath.PeerStats
	defer func() {
		if p.r.t.Failed() {
			p.r.t.Logf("upstream: %d received, %d sent; the other: %d sent, %d received", rx, tx, s.TxBytes, s.RxBytes)
		}
	}()
	p.r.eventually("the counters agree after "+after, func() bool {
		rx, tx = p.counters()
		s = n.peer()
		return s.RxBytes == tx && s.TxBytes == rx
	})
}

// testRawCounters compares what is counted with upstream's count of the same messages. Handshakes and keepalives count, and every message
// with its header, padding and tag, so there is no tolerance: they differ by what is on its way and nothing else.
func testRawCounters(t *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	p.agree(b, "the handshake")
	var sent uint64
	for i := range 196 { // from the MTU down, so that all lengths beyond a multiple of 16 are there, to which packets are padded
		for _, to := range []netip.Addr{b.v4, b.v6} {
			data := string(random(whole(to, mtu)-7*i, uint64(i)))
			p.send(packet(p.own(to), to, icmpOf(to), echoRequest(p.own(to), to, []byte(data))))
			if p.receive(patience, isEcho(to, data)) == nil {
				t.Fatalf("no answer to %d bytes", len(data))
			}
			sent += uint64(len(data))
		}
	}
	p.agree(b, "echoes")
	s := b.peer()
	if s.RxBytes < sent || s.TxBytes < sent {
		t.Errorf("counted %d received and %d sent, of more than %d", s.RxBytes, s.TxBytes, sent)
	}
	if err := p.device.IpcSet(fmt.Sprintf("public_key=%s\npersistent_keepalive_interval=1\n", b.priv.Public().Hex())); err != nil {
		t.Fatal(err)
	}
	r.eventually("a keepalive comes", func() bool { return b.peer().RxBytes > s.RxBytes })
	p.agree(b, "keepalives")
}

func testRawPing(_ *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	families(r.t, b, func(r *room, to netip.Addr) {
		for _, data := range []string{"ping", strings.Repeat("long", 300)} {
			from := p.own(to)
			p.send(packet(from, to, icmpOf(to), echoRequest(from, to, []byte(data))))
			if p.receive(patience, isEcho(to, data)) == nil {
				r.t.Fatal("no answer")
			}
		}
	})
}

func testRawRefused(_ *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	families(r.t, b, func(r *room, to netip.Addr) {
		from, was := p.own(to), b.tally(r)
		p.send(packet(from, to, protoTCP, synTo(from, to, 99)))
		if p.receive(patience, isReset(to)) == nil {
			r.t.Error("no reset for a port that nobody opened")
		}
		p.send(packet(from, to, protoUDP, udpTo(from, to, 99)))
		if p.receive(patience, isPortUnreachable(to)) == nil {
			r.t.Error("no ICMP port unreachable for a port that nobody opened")
		}
		was.grows(datapath.DropRefused, 2)
	})
}
