package netstack

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/slots"
)

// waitingDatagrams is how many datagrams of one flow are kept while nobody has answered its first.
const waitingDatagrams = 16

var errAnswered = errors.New("already answered")

// udpTable knows the flows that peers started: those that wait for an answer and, through slots, those that are open.
type udpTable struct {
	slots   *slots.Slots
	mu      sync.Mutex
	closed  bool
	waiting map[stack.TransportEndpointID]*udpRequest
}

func newUDPTable(total, perPeer int) udpTable {
	return udpTable{slots: slots.New(total, perPeer), waiting: make(map[stack.TransportEndpointID]*udpRequest)}
}

// udpRequest is a flow that nobody has answered. The first of Accept and Refuse answers it.
type udpRequest struct {
	s             *Stack
	id            stack.TransportEndpointID
	local, remote netip.AddrPort
	pkts          []*stack.PacketBuffer // guarded by the table's mutex; one reference each
}

var _ datapath.UDPRequest = (*udpRequest)(nil)

// forwardUDP is called by gVisor for a datagram that belongs to no socket. It must not block.
func (s *Stack) forwardUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := s.handleUDP.Load()
	if h == nil {
		s.count.refusedUDP.Add(1)
		return false // gVisor answers port unreachable
	}
	t := &s.udpFlows
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return true
	}
	if q := t.waiting[id]; q != nil {
		if len(q.pkts) >= waitingDatagrams {
			s.count.udpOverLimit.Add(1)
			return true
		}
		q.pkts = append(q.pkts, pkt.Clone())
		return true
	}
	local, remote := ends(id)
	if !t.slots.Take(remote.Addr()) {
		s.count.udpOverLimit.Add(1)
		return true
	}
	q := &udpRequest{s: s, id: id, local: local, remote: remote, pkts: []*stack.PacketBuffer{pkt.Clone()}}
	t.waiting[id] = q
	go (*h)(q)
	return true
}

// answer takes the request out of the table, with its datagrams; nil if it was answered before.
func (q *udpRequest) answer() []*stack.PacketBuffer {
	t := &q.s.udpFlows
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[q.id] != q {
		return nil
	}
	delete(t.waiting, q.id)
	return q.pkts
}

func (q *udpRequest) Local() netip.AddrPort  { return q.local }
func (q *udpRequest) Remote() netip.AddrPort { return q.remote }

// Accept makes the flow a socket whose first Read returns the datagram that began it.
func (q *udpRequest) Accept() (net.Conn, error) {
	pkts := q.answer()
	if pkts == nil {
		return nil, opError("accept", "udp", nil, nil, errAnswered)
	}
	defer release(pkts)
	wq := new(waiter.Queue)
	ep, err := udp.NewForwarderRequest(q.s.ip, q.id, pkts[0]).CreateEndpoint(wq)
	if err != nil {
		q.giveSlot()
		return nil, opError("accept", "udp", nil, nil, fromTCPIP(err))
	}
	if in, ok := ep.(stack.TransportEndpoint); ok {
		for _, p := range pkts[1:] {
			in.HandlePacket(q.id, p)
		}
	}
	c := newDatagram(ep, wq, q.local, q.remote)
	c.onClose = q.giveSlot
	return c, nil
}

// Refuse answers ICMP port unreachable.
func (q *udpRequest) Refuse() {
	pkts := q.answer()
	if pkts == nil {
		return
	}
	defer release(pkts)
	defer q.giveSlot()
	q.s.count.refusedUDP.Add(1)
	// A failure to send the error is not worth more: the peer sees silence instead.
	switch p := q.s.ip.NetworkProtocolInstance(pkts[0].NetworkProtocolNumber).(type) {
	case stack.RejectIPv4WithHandler:
		_ = p.SendRejectionError(pkts[0], stack.RejectIPv4WithICMPPortUnreachable, true)
	case stack.RejectIPv6WithHandler:
		_ = p.SendRejectionError(pkts[0], stack.RejectIPv6WithICMPPortUnreachable, true)
	}
}

func (q *udpRequest) giveSlot() { q.s.udpFlows.slots.Give(q.remote.Addr()) }

func release(pkts []*stack.PacketBuffer) {
	for _, p := range pkts {
		p.DecRef()
	}
}

// closeAll releases what waits and takes no more.
func (t *udpTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for id, q := range t.waiting {
		release(q.pkts)
		delete(t.waiting, id)
	}
}
