package netstack

import (
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tenantwire/tenantwire/sidecar/wireguard"
)

// Outside is what the Stack sends through: a WireGuard engine.
type Outside interface {
	// NewBatch returns an empty batch with room for at least one packet of the given size.
	NewBatch(size int) *wireguard.Batch
	// Send owns the batch from here on. It may wait, and never fails.
	Send(to netip.Addr, b *wireguard.Batch)
	// PathMTU is the longest packet that should be sent there, in bytes; zero: the MTU.
	PathMTU(to netip.Addr) int
}

// link is the wire between gVisor and the engine: to gVisor a link endpoint, and what feeds it packets.
type link struct {
	s          *Stack
	mtu        atomic.Int32
	outside    atomic.Pointer[Outside]
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	windows    *windows
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(s *Stack, mtu int) *link {
	l := &link{s: s, windows: newWindows()}
	l.mtu.Store(int32(mtu))
	return l
}

// WritePackets encrypts and sends outbound packets before it returns. It waits while the outer socket is full, and never drops
// for want of room: that would look like loss to TCP although nothing was lost.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	out := l.outside.Load()
	if out == nil || l.s.closed() {
		return 0, &tcpip.ErrClosedForSend{}
	}
	for _, pkt := range pkts.AsSlice() {
		to, ok := destination(pkt)
		if !ok {
			l.s.count.txNotUnicast.Add(1)
			continue
		}
		l.send(*out, to, pkt)
	}
	return pkts.Len(), nil
}

// destination returns where the packet goes, and whether a tunnel can carry it there: gVisor's own multicast must not reach a
// peer whose AllowedIPs is everything.
func destination(pkt *stack.PacketBuffer) (to netip.Addr, ok bool) {
	h := pkt.NetworkHeader().Slice()
	switch {
	case len(h) >= ipv4Header && h[0]>>4 == 4:
		to = netip.AddrFrom4([4]byte(h[16:20]))
	case len(h) >= ipv6Header && h[0]>>4 == 6:
		to = netip.AddrFrom16([16]byte(h[24:40]))
	}
	return to, unicast(to)
}

// send cuts the packet into as many as it takes, mostly in one batch.
func (l *link) send(out Outside, to netip.Addr, pkt *stack.PacketBuffer) {
	c := cutters.Get().(*cutter)
	defer putCutter(c)
	mtu := int(l.mtu.Load())
	if n := out.PathMTU(to); n != 0 {
		mtu = min(mtu, n) // TCP need not know: its segments are cut here
	}
	c.start(pkt, mtu)
	if !c.segment && c.left > mtu {
		l.sendFragments(out, to, pkt.ToView().AsSlice(), mtu)
		return
	}
	if c.segment {
		c.seq = l.windows.leaves(c.hdr[:c.l3], c.hdr[c.l3:], c.left)
	}
	for !c.done {
		b := out.NewBatch(c.room())
		size := c.emit(b)
		if b.Len() == 0 {
			l.s.count.txTooLong.Add(1)
			b.Free()
			return
		}
		l.s.count.txPackets.Add(uint64(b.Len()))
		l.s.count.txBytes.Add(uint64(size))
		out.Send(to, b)
	}
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
