// Package netstack is a TCP/IP stack in this process behind a WireGuard engine: the inside of a tunnel for a pod that may not
// create interfaces. A Stack is two things at once: a datapath.Network to those who dial and listen, and what a WireGuard engine
// delivers to (Deliver) and sends for (Connect).
//
// Outbound (tunnel entrance):
//
//  1. gVisor's TCP makes segments of up to 45 packets (see gso.go for why that many) and writes them to our link.
//  2. segment.go copies them straight from gVisor's views into one of the engine's batches, one copy, writing headers and
//     checksums of each packet as it goes.
//  3. The engine encrypts the batch and sends it before it returns. There is no queue: who writes waits while the outer socket is
//     full, or until its stream has its turn on the path (flight.go, turns.go).
//
// Inbound (tunnel exit):
//
//  1. The engine hands over a batch that it has authenticated and whose inner source it has checked against AllowedIPs.
//  2. inbound.go drops what is malformed or not addressed to one of the interface's own addresses.
//  3. gro.go joins neighbouring segments of one TCP stream, copies them into one buffer, and delivers it. Inner checksums are
//     not looked at: Poly1305 has already vouched for every byte.
//
// Ownership: the engine's buffers are never retained, and gVisor's not beyond WritePackets. Who waits for the outer socket may hold
// a gVisor endpoint's lock, which is why the engine closes before the Stack does.
//
// Units: sizes are bytes, MTU is that of the inner interface.
package netstack

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/slots"
)

// nicID is the one interface of every Stack.
const nicID tcpip.NICID = 1

// Options says how a Stack is made. Zero values take the defaults of Limits.
type Options struct {
	Interface datapath.Interface
	Limits    Limits
}

// Limits bounds what peers can make a Stack hold.
type Limits struct {
	TCPRequests        int // connections that wait for an answer or a handshake, all peers; default 1024
	TCPRequestsPerPeer int // the same from one peer; default 256
	UDPFlows           int // flows that peers started and that are still open or unanswered, all peers; default 4096
	UDPFlowsPerPeer    int // the same from one peer; default 1024
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.TCPRequests, 1024)
	def(&l.TCPRequestsPerPeer, 256)
	def(&l.UDPFlows, 4096)
	def(&l.UDPFlowsPerPeer, 1024)
	return l
}

// Stack is one tunnel's inside. All methods are safe for concurrent use.
type Stack struct {
	ip    *stack.Stack
	link  *link
	own   atomic.Pointer[addressSet]
	count counters
	paths paths

	handleTCP atomic.Pointer[func(datapath.TCPRequest)]
	handleUDP atomic.Pointer[func(datapath.UDPRequest)]
	tcpSlots  *slots.Slots
	udpFlows  udpTable
	resets    resets
	backlogs  backlogs

	mu        sync.Mutex // guards configuration and closing
	iface     datapath.Interface
	done      chan struct{} // closed first of all when the Stack closes
	closeOnce sync.Once
}

var _ datapath.Network = (*Stack)(nil)

// New makes a Stack with the given addresses and MTU. Close frees it.
func New(o Options) (*Stack, error) {
	if err := ValidateInterface(o.Interface); err != nil {
		return nil, err
	}
	limits := o.Limits.withDefaults()
	s := &Stack{
		done:     make(chan struct{}),
		tcpSlots: slots.New(limits.TCPRequests, limits.TCPRequestsPerPeer),
		udpFlows: newUDPTable(limits.UDPFlows, limits.UDPFlowsPerPeer),
	}
	s.ip = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// No neighbours, no routers and no duplicate addresses behind a tunnel: IPv6 must not wait for or listen to any.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true, // dialling our own address stays inside, as on a kernel's interface
	})
	s.own.Store(newAddressSet(nil))
	s.link = newLink(s, o.Interface.MTU)
	if err := s.configure(o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stack) configure(o Options) error {
	if err := tuneTCP(s.ip, openBacklog(o.Interface.MTU)); err != nil {
		return err
	}
	if err := s.ip.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create interface: %w", fromTCPIP(err))
	}
	fwd := tcp.NewForwarder(s.ip, openBacklog(o.Interface.MTU), o.Limits.withDefaults().TCPRequests, s.forwardTCP)
	s.ip.SetTransportProtocolHandler(tcp.ProtocolNumber, fwd.HandlePacket)
	s.ip.SetTransportProtocolHandler(udp.ProtocolNumber, s.forwardUDP)
	return s.SetInterface(o.Interface)
}

// Connect gives the Stack what it sends through; until then nothing leaves. It is called once.
func (s *Stack) Connect(out Outside) { s.link.outside.Store(&out) }

// Deliver takes a batch of inbound packets, each beginning at offset, and may be called concurrently. What a peer sent and is wrong
// is dropped and counted. The buffers are the caller's again when it returns.
func (s *Stack) Deliver(packets [][]byte, offset int) {
	if !s.closed() {
		s.link.deliver(packets, offset)
	}
}

// MTU is the inner MTU.
func (s *Stack) MTU() int { return int(s.link.mtu.Load()) }

// SetInterface changes addresses and MTU. Connections on addresses that stay go on; those on addresses that go are reset.
func (s *Stack) SetInterface(i datapath.Interface) error {
	if err := ValidateInterface(i); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed() {
		return fmt.Errorf("set interface: %w", net.ErrClosed)
	}
	next, prev := newAddressSet(i.Addresses), s.own.Load()
	for _, a := range i.Addresses {
		if prev.has(a.Addr()) {
			continue
		}
		if err := s.ip.AddProtocolAddress(nicID, protocolAddress(a.Addr()), stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %w", a.Addr(), fromTCPIP(err))
		}
	}
	s.own.Store(next)
	if err := s.dialFrom(i.Addresses); err != nil {
		return err
	}
	for _, a := range s.iface.Addresses {
		if next.has(a.Addr()) {
			continue
		}
		s.abortOn(a.Addr())
		if err := s.ip.RemoveAddress(nicID, toTCPIP(a.Addr())); err != nil {
			return fmt.Errorf("remove address %s: %w", a.Addr(), fromTCPIP(err))
		}
	}
	s.iface = datapath.Interface{Addresses: append(i.Addresses[:0:0], i.Addresses...), MTU: i.MTU}
	s.link.SetMTU(uint32(i.MTU))
	return nil
}

// HandleTCP sets who answers connections that peers open to our addresses; nil refuses all.
func (s *Stack) HandleTCP(h func(datapath.TCPRequest)) { storeHandler(&s.handleTCP, h) }

// HandleUDP sets who answers flows that peers start; nil refuses all.
func (s *Stack) HandleUDP(h func(datapath.UDPRequest)) { storeHandler(&s.handleUDP, h) }

func storeHandler[R any](to *atomic.Pointer[func(R)], h func(R)) {
	if h == nil {
		to.Store(nil)
		return
	}
	to.Store(&h)
}

// Close ends the Stack and every connection through it. Closing twice is no error. The engine must not be waiting for its socket any
// more: who waits there holds an endpoint's lock that closing the endpoint needs.
func (s *Stack) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		close(s.done)
		s.mu.Unlock()
		s.HandleTCP(nil)
		s.HandleUDP(nil)
		s.ip.Close()
		s.ip.RemoveNIC(nicID)
		s.udpFlows.closeAll()
		s.ip.Wait()
	})
	return nil
}

func (s *Stack) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

var errNotOurs = datapath.ErrNotUnicast
