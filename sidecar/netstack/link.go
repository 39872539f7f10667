package netstack

import (
	"os"
	"sync"
	"sync/atomic"

	"github.com/tailscale/wireguard-go/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// batch is the most packets that the engine reads or writes at once.
const batch = 128

// link is the wire between gVisor and the engine: to gVisor a link endpoint, to the engine, through device, a tun.Device.
type link struct {
	s   *Stack
	q   *queue
	mtu atomic.Int32

	dispatcher atomic.Pointer[stack.NetworkDispatcher]

	readMu sync.Mutex // the engine reads from one goroutine; this makes a second one harmless
	items  []item     // read from the queue and not yet cut
	cut    cutter     // the item being cut

	events chan tun.Event
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(s *Stack, mtu int) *link {
	l := &link{s: s, q: newQueue(), events: make(chan tun.Event, 4)}
	l.mtu.Store(int32(mtu))
	return l
}

// setMTU tells the engine, which pads packets up to the MTU. It must not be called after the Stack has closed.
func (l *link) setMTU(mtu int) {
	if int(l.mtu.Swap(int32(mtu))) == mtu {
		return
	}
	select {
	case l.events <- tun.EventMTUUpdate:
	default: // one is pending already, and its reader asks for the current value
	}
}

// WritePackets queues outbound packets. It blocks while the queue is full.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		flow, ok := l.classify(pkt)
		if !ok {
			l.s.count.txNotUnicast.Add(1)
			continue
		}
		if !l.q.push(flow, l.measure(pkt.IncRef())) {
			pkt.DecRef()
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return pkts.Len(), nil
}

// classify returns the hash of the packet's flow, and whether it goes where a tunnel can carry it: gVisor's own multicast
// must not reach a peer whose AllowedIPs is everything.
func (l *link) classify(pkt *stack.PacketBuffer) (flow uint32, ok bool) {
	h := pkt.NetworkHeader().Slice()
	var src, dst tcpip.Address
	switch {
	case len(h) >= ipv4Header && h[0]>>4 == 4:
		src, dst = header.IPv4(h).SourceAddress(), header.IPv4(h).DestinationAddress()
	case len(h) >= ipv6Header && h[0]>>4 == 6:
		src, dst = header.IPv6(h).SourceAddress(), header.IPv6(h).DestinationAddress()
	default:
		return 0, false
	}
	if !unicast(fromAddress(dst)) {
		return 0, false
	}
	if pkt.Hash != 0 {
		return pkt.Hash ^ pkt.Hash>>16, true
	}
	const prime = 16777619 // FNV-1a
	flow = 2166136261
	mix := func(bs []byte) {
		for _, b := range bs {
			flow = (flow ^ uint32(b)) * prime
		}
	}
	mix(src.AsSlice())
	mix(dst.AsSlice())
	if t := pkt.TransportHeader().Slice(); len(t) >= 4 {
		mix(t[:4])
	}
	return flow ^ flow>>16, true
}

// measure foresees how much of the engine's buffer the packet takes.
func (l *link) measure(pkt *stack.PacketBuffer) item {
	it := item{pkt: pkt, size: pkt.Size(), segs: 1}
	if pkt.GSOOptions.Type != stack.GSONone {
		hdr := pkt.HeaderSize()
		if mss := segmentSize(pkt, hdr, int(l.mtu.Load())); it.size-hdr > mss {
			it.segs = (it.size - hdr + mss - 1) / mss
			it.need = (it.segs - 1) * hdr
		}
	}
	it.need += it.size + it.segs*tun.ReadPacketSpacing
	return it
}

// read fills slab with packets for the engine; see segment.go.
func (l *link) read(slab []byte, packets []tun.ReadPacket) (int, error) {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if l.s.closed() {
		l.discard()
		return 0, os.ErrClosed
	}
	w := slabWriter{slab: slab, packets: packets, pos: tun.ReadPacketSpacing}
	for w.n == 0 {
		if !l.cut.active() && len(l.items) == 0 {
			l.items = l.q.pop(l.items[:0], len(slab)-tun.ReadPacketSpacing, len(packets))
			if len(l.items) == 0 {
				return 0, os.ErrClosed
			}
		}
		l.fill(&w)
	}
	l.s.count.txPackets.Add(uint64(w.n))
	l.s.count.txBytes.Add(uint64(w.bytes))
	return w.n, nil
}

// fill cuts what was taken from the queue until it is used up or the engine's buffer is full. The rest waits for the next
// Read.
func (l *link) fill(w *slabWriter) {
	for {
		if !l.cut.active() {
			if len(l.items) == 0 {
				l.items = nil
				return
			}
			l.cut.start(l.items[0].pkt, int(l.mtu.Load()))
			l.items = l.items[1:]
		}
		switch full, tooLong := l.cut.emit(w); {
		case tooLong:
			l.s.count.txTooLong.Add(1)
		case full:
			return
		}
	}
}

// discard releases what was taken from the queue and not yet cut.
func (l *link) discard() {
	if l.cut.active() {
		l.cut.release()
	}
	for _, it := range l.items {
		it.pkt.DecRef()
	}
	l.items = nil
}

// SupportedGSO makes gVisor's TCP hand over super-segments.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize bounds a super-segment.
func (l *link) GSOMaxSize() uint32 { return uint32(gsoMaxSize(int(l.mtu.Load()))) }

// Capabilities says that inbound checksums need no checking: WireGuard's authentication tag covered every byte.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// Attach is called by gVisor with the stack's input, and with nil when the interface is removed.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// The rest of gVisor's link endpoint: a wire without link-layer addresses, headers or goroutines. Close is the Stack's task.

func (l *link) IsAttached() bool                      { return l.dispatcher.Load() != nil }
func (l *link) MTU() uint32                           { return uint32(l.mtu.Load()) }
func (l *link) SetMTU(mtu uint32)                     { l.mtu.Store(int32(mtu)) }
func (*link) MaxHeaderLength() uint16                 { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress          { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) Wait()                                   {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) AddHeader(*stack.PacketBuffer)           {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) Close()                                  {}
func (*link) SetOnCloseAction(func())                 {}
