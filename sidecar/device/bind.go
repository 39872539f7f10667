package device

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tailscale/wireguard-go/conn"
	wg "github.com/tailscale/wireguard-go/device"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// bind is the engine's UDP socket with what this engine leaves to its user: knowing where each peer is. Other WireGuard
// implementations take a peer's endpoint from every authenticated packet; this one answers to whatever endpoint it was given.
// So each peer gets a whereabouts as its endpoint, which bind resolves when it sends and corrects when it receives:
//
//   - a transport packet, once decrypted, tells where its sender is (FromPeer);
//   - a handshake initiation names its sender before it is verified. Its source is only noted, under the index that the
//     sender chose, and becomes the endpoint when the engine answers that index: it answers verified initiations only.
type bind struct {
	conn.Bind
	mu    sync.RWMutex
	peers map[key.Public]*whereabouts
}

func newBind() *bind {
	return &bind{Bind: conn.NewDefaultBind(), peers: make(map[key.Public]*whereabouts)}
}

var errUnknownEndpoint = errors.New("the peer's endpoint is not known")

// peer returns the whereabouts of a configured peer, or nil.
func (b *bind) peer(k key.Public) *whereabouts {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.peers[k]
}

// add makes sure that the peer has whereabouts and says whether they are new.
func (b *bind) add(k key.Public) (w *whereabouts, fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.peers[k]; w != nil {
		return w, false
	}
	w = new(whereabouts)
	b.peers[k] = w
	return w, true
}

func (b *bind) remove(k key.Public) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.peers, k)
}

// ParseEndpoint takes a public key in hex: the engine's configuration text says only whose whereabouts to use.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	var k key.Public
	if len(s) != hex.EncodedLen(key.Size) {
		return nil, errUnknownEndpoint
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return nil, errUnknownEndpoint
	}
	if w := b.peer(k); w != nil {
		return w, nil
	}
	return nil, errUnknownEndpoint
}

// Open wraps the receivers so that every packet knows where it came from in our terms.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	inner, port, err := b.Bind.Open(port)
	fns := make([]conn.ReceiveFunc, len(inner))
	for i, receive := range inner {
		fns[i] = func(slab []byte, packets []conn.ReceivedPacket) (int, error) {
			n, err := receive(slab, packets)
			b.note(slab, packets[:max(0, n)])
			return n, err
		}
	}
	return fns, port, err
}

// note replaces the packets' endpoints. Packets that came in one system call share theirs, but for handshake initiations.
func (b *bind) note(slab []byte, packets []conn.ReceivedPacket) {
	var last conn.Endpoint
	var shared *origin
	for i := range packets {
		p := &packets[i]
		std, ok := p.Endpoint.(*conn.StdNetEndpoint)
		if !ok {
			continue
		}
		if data := p.Bytes(slab); len(data) == wg.MessageInitiationSize &&
			binary.LittleEndian.Uint32(data) == wg.MessageInitiationType {
			p.Endpoint = &origin{StdNetEndpoint: std, b: b, index: binary.LittleEndian.Uint32(data[4:])}
			continue
		}
		if shared == nil || last != p.Endpoint {
			last, shared = p.Endpoint, &origin{StdNetEndpoint: std, b: b}
		}
		p.Endpoint = shared
	}
}

// Send resolves the endpoint and sends. If the source address that the peer used is no longer ours, it tries without one.
func (b *bind) Send(bufs [][]byte, to conn.Endpoint, offset int) error {
	var std *conn.StdNetEndpoint
	var w *whereabouts
	switch e := to.(type) {
	case *origin: // a cookie, in answer to an initiation
		std = e.StdNetEndpoint
	case *whereabouts:
		w = e
		if len(bufs) == 1 {
			w.answering(bufs[0][offset:])
		}
		std = w.at.Load()
	}
	if std == nil {
		return errUnknownEndpoint
	}
	err := b.send(bufs, std, offset)
	if w == nil {
		return err
	}
	var gso conn.ErrUDPGSODisabled
	if err != nil && !errors.As(err, &gso) && std.SrcIP().IsValid() {
		plain := &conn.StdNetEndpoint{AddrPort: std.AddrPort}
		w.at.CompareAndSwap(std, plain)
		err = b.send(bufs, plain, offset)
	}
	if err == nil {
		w.uncounted.Add(uint64(len(bufs) * offset))
	}
	return err
}

// maxMessage is the most payload that one message of several packets may have: a longer one would be a frame of 65,536 bytes or
// more, which no network device takes whole, and the kernel would cut it up packet by packet.
const maxSegments = 64
const maxMessage = 65536 - 1 - 14 - 40 - 8 // Ethernet, IPv6, UDP

// send hands the packets to the socket by the message: each slice that it passes on becomes one.
func (b *bind) send(bufs [][]byte, to *conn.StdNetEndpoint, offset int) error {
	for len(bufs) > 0 {
		n := message(bufs, offset)
		if err := b.sendMessage(bufs[:n], to, offset); err != nil {
			return err
		}
		bufs = bufs[n:]
	}
	return nil
}

// message is how many of the packets go into the next message: equal ones, the last may be shorter.
func message(bufs [][]byte, offset int) int {
	size := len(bufs[0]) - offset
	most := min(len(bufs), maxSegments, max(1, maxMessage/max(1, size)))
	for n := 1; n < most; n++ {
		switch next := len(bufs[n]) - offset; {
		case next > size:
			return n
		case next < size:
			return n + 1
		}
	}
	return most
}

// sendMessage sends packets that are longer than the path's MTU too: together they are refused, each by itself is fragmented.
// Those that had left already are dropped as repetitions by the peer.
func (b *bind) sendMessage(bufs [][]byte, to *conn.StdNetEndpoint, offset int) error {
	err := b.Bind.Send(bufs, to, offset)
	if len(bufs) == 1 || !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EMSGSIZE) {
		return err
	}
	for i := range bufs {
		if err := b.Bind.Send(bufs[i:i+1], to, offset); err != nil {
			return err
		}
	}
	return nil
}

// origin is where a received packet came from.
type origin struct {
	*conn.StdNetEndpoint
	b     *bind
	index uint32 // of a handshake initiation: what its sender calls the session
	told  atomic.Pointer[whereabouts]
}

var (
	_ conn.PeerAwareEndpoint       = (*origin)(nil)
	_ conn.InitiationAwareEndpoint = (*origin)(nil)
)

// FromPeer is called for authenticated packets.
func (o *origin) FromPeer(k [32]byte) {
	if o.told.Load() != nil {
		return // a batch from one source is of one peer, but for pathological cases that the next batch corrects
	}
	if w := o.b.peer(k); w != nil {
		o.told.Store(w)
		w.move(o.StdNetEndpoint)
	}
}

// InitiationMessagePublicKey is called before the initiation is verified.
func (o *origin) InitiationMessagePublicKey(k [32]byte) {
	if w := o.b.peer(k); w != nil {
		w.suspect(o)
	}
}

// suspects is how many unverified initiations of one peer are remembered; each is answered within the millisecond or never.
const suspects = 32

// whereabouts is one peer's endpoint as we know it.
type whereabouts struct {
	at atomic.Pointer[conn.StdNetEndpoint] // nil: unknown
	// uncounted is what the engine counts as sent and never is: the room before each packet.
	uncounted atomic.Uint64

	mu    sync.Mutex
	noted [suspects]*origin
	next  int
}

var _ conn.Endpoint = (*whereabouts)(nil)

// move records where the peer is, if that is news. The local address it was reached at counts: answers leave from there.
func (w *whereabouts) move(to *conn.StdNetEndpoint) {
	if at := w.at.Load(); at == nil || at.AddrPort != to.AddrPort || at.SrcIP() != to.SrcIP() {
		w.at.Store(to)
	}
}

func (w *whereabouts) suspect(o *origin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noted[w.next] = o
	w.next = (w.next + 1) % suspects
}

// answering looks whether the message is a handshake response; if so the initiation it answers was verified.
func (w *whereabouts) answering(msg []byte) {
	if len(msg) != wg.MessageResponseSize || binary.LittleEndian.Uint32(msg) != wg.MessageResponseType {
		return
	}
	index := binary.LittleEndian.Uint32(msg[8:])
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.noted {
		if o != nil && o.index == index {
			w.move(o.StdNetEndpoint)
			break
		}
	}
	clear(w.noted[:])
}

// set makes the address the peer's endpoint.
func (w *whereabouts) set(a netip.AddrPort) { w.at.Store(&conn.StdNetEndpoint{AddrPort: a}) }

// ClearSrc forgets the local address, at the engine's wish.
func (w *whereabouts) ClearSrc() {
	if at := w.at.Load(); at != nil {
		w.at.CompareAndSwap(at, &conn.StdNetEndpoint{AddrPort: at.AddrPort})
	}
}

func (w *whereabouts) addrPort() netip.AddrPort {
	at := w.at.Load()
	if at == nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(at.AddrPort.Addr().Unmap(), at.AddrPort.Port())
}

// SrcToString is for the engine's log.
func (w *whereabouts) SrcToString() string { return w.SrcIP().String() }

// DstToString is the address for the engine's report, empty while unknown.
func (w *whereabouts) DstToString() string {
	if a := w.addrPort(); a.IsValid() {
		return a.String()
	}
	return ""
}

// DstToBytes is unused: cookies go to origins.
func (w *whereabouts) DstToBytes() []byte {
	b, _ := w.addrPort().MarshalBinary() // never fails
	return b
}

// DstIP is where the peer is.
func (w *whereabouts) DstIP() netip.Addr { return w.addrPort().Addr() }

// SrcIP is the local address that the peer was reached at.
func (w *whereabouts) SrcIP() netip.Addr {
	if at := w.at.Load(); at != nil {
		return at.SrcIP()
	}
	return netip.Addr{}
}
