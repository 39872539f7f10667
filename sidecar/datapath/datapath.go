// Package datapath is the seam between what moves packets and what uses them: a Datapath is one WireGuard interface with its
// peers, and a Network is the inside of the tunnel as the relay sees it. Three implementations stand behind it: Kernel, TUN and
// Netstack. Nothing here moves a packet.
package datapath

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Kind names an implementation.
type Kind string

// The implementations, best first.
const (
	Kernel   Kind = "Kernel"   // in-kernel WireGuard; needs CAP_NET_ADMIN and the module
	TUN      Kind = "TUN"      // our engine on a TUN device; needs CAP_NET_ADMIN and /dev/net/tun
	Netstack Kind = "Netstack" // our engine on gVisor's TCP/IP; needs nothing
)

// Peer is one WireGuard peer as a device is configured with it.
type Peer struct {
	PublicKey    key.Public
	PresharedKey key.Preshared  // zero: none
	Endpoint     netip.AddrPort // zero: unknown, learned from the peer's first packet
	AllowedIPs   []netip.Prefix // inner addresses this peer may use
	Keepalive    time.Duration  // zero: off; whole seconds up to 65535
	Outside      bool           // of the two kinds of peers that a hub passes packets between
	Gateway      bool           // passes on what many send
	Mappings     []Mapping      // whose Seen are among AllowedIPs; needs Capabilities.Mappings
	Answers      []netip.Addr   // of AllowedIPs, those of which some are the peer's own, so that it answers echo requests; none: all single ones
}

// PeerStats is what a device knows of one peer.
type PeerStats struct {
	PublicKey     key.Public
	Endpoint      netip.AddrPort // zero while unknown
	AllowedIPs    []netip.Prefix
	LastHandshake time.Time // zero: never
	RxBytes       uint64    // WireGuard bytes received from the peer
	TxBytes       uint64    // WireGuard bytes sent to the peer
	PathMTU       int       // how long the inner packets to it may be, bytes; zero without Capabilities.PathMTU
	MTUState      MTUState  // empty without it
}

// Interface is the part of a device that is not its peers.
type Interface struct {
	Addresses []netip.Prefix // the interface's own inner addresses
	MTU       int            // inner MTU in bytes, 1280..65455
	// Hub passes packets on between Outside peers and the others, before any TCP/IP stack sees them.
	Hub bool
}

// Datapath is one live WireGuard interface. All methods are safe for concurrent use.
type Datapath interface {
	Network
	// Kind says which implementation this is.
	Kind() Kind
	// Capabilities says what of the contract this implementation cannot keep to the letter.
	Capabilities() Capabilities
	// SetInterface changes addresses and MTU; established connections on addresses that stay are undisturbed.
	SetInterface(Interface) error
	// UpdatePeers applies one delta: upserts, then removals. Peers not named are not touched. Either all of the delta is
	// valid and is applied or an error names what is wrong and nothing has changed.
	UpdatePeers(upsert []Peer, remove []key.Public) error
	// Peers lists the peers with their counters.
	Peers() ([]PeerStats, error)
	// Drops is how much was dropped since the datapath was opened, by reason (drops.go). No number gets smaller.
	Drops() map[string]uint64
	// ListenPort is the outer UDP port in use.
	ListenPort() uint16
	// Flush waits until the peers have acknowledged all that was written to connections that are closed by now, in this direction at
	// least, or until ctx ends. What they have not when the device closes is lost, although the writer was told that it was taken.
	Flush(ctx context.Context) error
	// Close ends the device and every connection through it.
	Close() error
}

// Capabilities is where implementations must differ: a kernel completes handshakes by itself. Whoever cares asks here, not for the
// Kind.
type Capabilities struct {
	// AsksFirst: a request reaches its handler before the peer has got any answer, so that Refuse looks to the peer as if nobody
	// listened. Without it the datapath is a Gate; what it lets in is answered by the kernel before the handler is asked, so
	// that Refuse is a reset after the handshake, and for a datagram it is silence.
	AsksFirst bool
	// OwnAddress: dialling one of the interface's own addresses reaches its own handlers. Without it such a dial fails.
	OwnAddress bool
	// Hub: it can be one. Without it, SetInterface refuses Interface.Hub.
	Hub bool
	// Mappings: peers can have some. Without it, UpdatePeers refuses them with ErrNoMappings.
	Mappings bool
	// PathMTU: it finds out how long packets the path to each peer takes. Kernel cannot where the process may ask for no echoes.
	PathMTU bool
	// CountsMessages: Drops tells of messages that are refused before or as they are decrypted, replayed ones among them. Of these the kernel's
	// WireGuard keeps no count.
	CountsMessages bool
	// CountsMartians: Drops tells of inner IPv6 packets to ::1, and of those from ::1 or multicast addresses of a peer that may have all. A kernel's
	// IPv6 refuses these before any of its rules could count them; so it does those from IPv4-mapped addresses before Linux 5.12.
	CountsMartians bool
}

// Ports are transport ports of the interface's own addresses.
type Ports struct {
	TCP, UDP     []uint16         // at each of them
	TCPAt, UDPAt []netip.AddrPort // at one of them alone
}

// Gate is a Datapath whose ports are shut until they are opened: what is not open is refused by the kernel, whoever may listen
// there, and no handler is asked. Every Datapath without AsksFirst is a Gate.
type Gate interface {
	// OpenPorts makes the given ports the open ones. Connections and flows that exist are undisturbed. The same as before costs
	// nothing.
	OpenPorts(Ports) error
}

// Network is the inside of the tunnel.
type Network interface {
	// DialTCP connects through the tunnel. A refused connection satisfies errors.Is(err, syscall.ECONNREFUSED).
	DialTCP(ctx context.Context, to netip.AddrPort) (Stream, error)
	// DialUDP makes a connected datagram socket through the tunnel. Read returns one datagram, truncated to the buffer.
	DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// HandleTCP sets who answers connections that peers open to our addresses; nil refuses all. The handler runs on a
	// goroutine of its own and must call exactly one of Accept and Refuse.
	HandleTCP(func(TCPRequest))
	// HandleUDP sets who answers the first datagram of a flow that a peer starts; nil refuses all. Same rules.
	HandleUDP(func(UDPRequest))
}

// Stream is a TCP connection with the two things net.Conn lacks.
type Stream interface {
	net.Conn
	// CloseWrite sends FIN and leaves the other direction open.
	CloseWrite() error
	// Abort sends RST and frees the connection.
	Abort()
}

// TCPRequest is a connection that a peer asks for and that nobody has answered yet.
type TCPRequest interface {
	Local() netip.AddrPort  // our inner address and port
	Remote() netip.AddrPort // the peer's inner address and port
	// Accept completes the handshake.
	Accept() (Stream, error)
	// Refuse answers RST.
	Refuse()
}

// ContextAccepter is a TCPRequest whose Accept may wait for the peer, and can be told not to any more.
type ContextAccepter interface {
	// AcceptContext is Accept until ctx ends.
	AcceptContext(ctx context.Context) (Stream, error)
}

// UDPRequest is the first datagram of a flow that nobody has answered yet.
type UDPRequest interface {
	Local() netip.AddrPort
	Remote() netip.AddrPort
	// Accept returns the flow, connected to Remote; the first Read returns the datagram that asked for it.
	Accept() (net.Conn, error)
	// Refuse answers ICMP port unreachable.
	Refuse()
}
