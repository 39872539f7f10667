// Package wire is the contract between the control plane and the data plane: what a member says when it registers, and what it
// is told. It is the only package that both sides import.
//
// A member sends one Registration, then holds one watch open: a GET whose answer is newline-delimited Events. The first Event is
// a Snapshot, or nothing but heartbeats when the revision that the member names is current. Deltas follow, each from the revision
// that the one before it led to. A member that sees anything else keeps what it has and opens the watch anew.
//
// A revision is a digest of the configuration, so that every replica of the coordinator gives the same configuration the same
// revision and a member can move between them.
package wire

import (
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TokenAudience is the audience that a member's service-account token is bound to.
const TokenAudience = "tenantwire.dev"

// The coordinator's paths.
const (
	RegisterPath = "/v1alpha1/register" // POST Registration -> Registered
	ReportPath   = "/v1alpha1/report"   // POST Report -> 204
	WatchPath    = "/v1alpha1/watch"    // GET ?revision=R -> stream of Event
	PeersPath    = "/v1alpha1/peers"    // POST PeerReport -> 204; of gateways
)

// Bounds that both sides keep.
const (
	// MaxBody bounds a request body in bytes.
	MaxBody = 16 << 10
	// MaxPeerStates bounds a PeerReport, which fits MaxBody then.
	MaxPeerStates = 100
	// MaxEvent bounds one Event's JSON in bytes: about 20,000 peers.
	MaxEvent = 8 << 20
	// HeartbeatInterval is how often a watch with nothing to say says so. A member that hears nothing for three intervals
	// reconnects.
	HeartbeatInterval = 15 * time.Second
)

// Registration is what a member says of itself. Who it is comes from its token, never from here.
type Registration struct {
	PublicKey      key.Public     `json:"publicKey"`
	Endpoint       netip.AddrPort `json:"endpoint"` // the pod's IP and the outer UDP port
	Datapath       datapath.Kind  `json:"datapath"`
	DatapathReason string         `json:"datapathReason,omitempty"` // at most 512 bytes
	Version        string         `json:"version,omitempty"`        // of the program; see CheckVersion
	Join           *Join          `json:"join,omitempty"`           // what was done until then; nil: told before
}

// Registered answers a Registration.
type Registered struct {
	Tunnel    string         `json:"tunnel"`
	Addresses []netip.Prefix `json:"addresses"`
}

// Report says whether the member's data path is up.
type Report struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // at most 512 bytes; why not
	// DatapathUnavailable: the member does not run, since the datapath that was asked for cannot be had where it is. It comes before,
	// or instead of, a registration.
	DatapathUnavailable bool `json:"datapathUnavailable,omitempty"`
	// Debug is for an Event: what began of what Config.Debug allows, in at most 512 bytes; empty: nothing. With it, nothing else of the
	// report counts, which may be older than what was reported since; coordinators of before take it all.
	Debug string `json:"debug,omitempty"`
	Join  *Join  `json:"join,omitempty"` // what was done since the registration; nil: told before
}

// PeerReport is what the active pod of a gateway says of outside peers of which something changed.
type PeerReport struct {
	Peers []PeerState `json:"peers"`
}

// PeerState says whether an outside peer was heard of lately. One that was not may be away, or have nothing to say.
type PeerState struct {
	PublicKey     key.Public `json:"publicKey"`
	Connected     bool       `json:"connected"`
	LastHandshake time.Time  `json:"lastHandshake,omitzero"`
	KeptOut       KeptOut    `json:"keptOut,omitempty"` // empty: it takes part
}

// KeptOut says why a peer takes no part although the coordinator named it.
type KeptOut string

// Why a peer is kept out.
const (
	NoPresharedKey  KeptOut = "NoPresharedKey"  // there is no such key
	BadPresharedKey KeptOut = "BadPresharedKey" // what is there is none
)

// EventType says what an Event holds.
type EventType string

// The events of a watch.
const (
	Snapshot  EventType = "Snapshot"  // Config at To
	DeltaType EventType = "Delta"     // Delta from From to To
	Heartbeat EventType = "Heartbeat" // nothing new; To is the current revision
	Gone      EventType = "Gone"      // the tunnel or the member no longer exists: drop every peer; Reason says which
)

// Event is one line of a watch.
type Event struct {
	Type   EventType `json:"type"`
	From   string    `json:"from,omitempty"`
	To     string    `json:"to,omitempty"`
	Config *Config   `json:"config,omitempty"`
	Delta  *Delta    `json:"delta,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Config is everything a member needs to know. Lists are sorted and free of duplicates.
type Config struct {
	Interface Interface `json:"interface"`
	Peers     []Peer    `json:"peers,omitempty"`    // by public key
	Services  []Service `json:"services,omitempty"` // by name, port, protocol
	Inbound   []Port    `json:"inbound,omitempty"`  // by port, protocol: what the member's own addresses accept
	Granted   []Port    `json:"granted,omitempty"`  // those of Inbound that all outside peers reach too; members reach all
	Grants    []Grant   `json:"grants,omitempty"`   // by ports: those of Inbound that only some outside peers reach

	Zone *Zone `json:"zone,omitempty"` // of a gateway: the names that it answers for
	// Limits bound what one outside peer can take; nil: nothing was said.
	Limits *Limits `json:"limits,omitempty"`
	// Of a gateway: what it carries for pods without a sidecar, and for which.
	Relays  []Relay      `json:"relays,omitempty"`  // by listening port, protocol
	Clients []netip.Addr `json:"clients,omitempty"` // sorted; nobody else may use the relays
	// Of a gateway: the exposed Services that it answers for. By name, port, protocol.
	Published []Published `json:"published,omitempty"`

	Lookups *Lookups `json:"lookups,omitempty"` // nil: no name is looked up
	Debug   *Debug   `json:"debug,omitempty"`   // nil: it allows nothing
}

// Interface is the member's own end.
type Interface struct {
	Addresses []netip.Prefix `json:"addresses"`
	MTU       int            `json:"mtu,omitempty"` // bytes; 0: the member derives it from its path
	Hub       bool           `json:"hub,omitempty"` // a gateway: passes packets on between outside peers and members
}

// Peer is another end of the tunnel.
type Peer struct {
	PublicKey        key.Public     `json:"publicKey"`
	Endpoint         netip.AddrPort `json:"endpoint,omitzero"`      // zero: the peer dials, or has a name
	EndpointName     string         `json:"endpointName,omitempty"` // HOST:PORT for the member to look up; never beside Endpoint
	AllowedIPs       []netip.Prefix `json:"allowedIPs"`
	Mappings         []Mapping      `json:"mappings,omitempty"`         // of a gateway's peer, by what is real; see Ranges
	Outside          bool           `json:"outside,omitempty"`          // not a member: default deny, it reaches what is granted
	KeepaliveSeconds int            `json:"keepaliveSeconds,omitempty"` // 0: off
	PresharedKey     string         `json:"presharedKey,omitempty"`     // the name of it, for a gateway to find; empty: none
	// Owners says which of AllowedIPs are one outside peer's, where a gateway stands for many: those with the same number, which
	// means nothing beyond this list, but see Gateway. Empty: all are one's, as if all were 0.
	Owners []int `json:"owners,omitempty"`
	// Gateway: a gateway, for a member. It dials for many from addresses of its own, those with number 0, and has held each of the many to
	// its limits. Without it, it is held to those of one.
	Gateway bool `json:"gateway,omitempty"`
}

// Protocol of a port.
type Protocol string

// The protocols carried by port.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// Port is one transport port.
type Port struct {
	Port     uint16   `json:"port"`
	Protocol Protocol `json:"protocol"`
}

// ServiceID names one carried port of a Service or egress host.
type ServiceID struct {
	Name     string   `json:"name"` // the Service's name or the host
	Port     uint16   `json:"port"`
	Protocol Protocol `json:"protocol"`
}

// Service is one carried port and where it leads inside the tunnel.
type Service struct {
	ServiceID
	Targets []netip.AddrPort `json:"targets,omitempty"` // ready ones; none: new connections are refused
	Lookup  bool             `json:"lookup,omitempty"`  // Name is looked up for each connection; never beside Targets
}

// Relay is a port of a gateway pod's own address that leads into the tunnel.
type Relay struct {
	Listen    uint16 `json:"listen"`
	ServiceID        // the egress host's port
	// Target is where it leads; zero: nowhere at present, connections are refused.
	Target netip.AddrPort `json:"target,omitzero"`
	Lookup bool           `json:"lookup,omitempty"` // Name is looked up for each connection; never beside Target
}

// Door is where the relay listens: the port tells relays apart.
func (r Relay) Door() Port { return Port{r.Listen, r.Protocol} }

// Delta changes a Config. What is not named stays.
type Delta struct {
	Interface      *Interface   `json:"interface,omitempty"`
	UpsertPeers    []Peer       `json:"upsertPeers,omitempty"`
	RemovePeers    []key.Public `json:"removePeers,omitempty"`
	UpsertServices []Service    `json:"upsertServices,omitempty"`
	RemoveServices []ServiceID  `json:"removeServices,omitempty"`
	Inbound        *[]Port      `json:"inbound,omitempty"` // replaces the whole list
	Granted        *[]Port      `json:"granted,omitempty"` // replaces the whole list
	// UpsertGrants say all that their sources reach from now on, besides Granted.
	UpsertGrants  []Grant        `json:"upsertGrants,omitempty"`
	RemoveSources []netip.Prefix `json:"removeSources,omitempty"` // of grants
	Zone          *Zone          `json:"zone,omitempty"`          // replaces the whole zone
	Limits        *Limits        `json:"limits,omitempty"`        // replaces all limits; without a field, there are none any more
	UpsertRelays  []Relay        `json:"upsertRelays,omitempty"`
	RemoveRelays  []Port         `json:"removeRelays,omitempty"` // by their doors
	AddClients    []netip.Addr   `json:"addClients,omitempty"`
	RemoveClients []netip.Addr   `json:"removeClients,omitempty"`
	Lookups       *Lookups       `json:"lookups,omitempty"` // replaces all of it; an empty one removes it
	Debug         *Debug         `json:"debug,omitempty"`   // replaces all of it; one that allows nothing removes it

	UpsertPublished []Published `json:"upsertPublished,omitempty"`
	RemovePublished []ServiceID `json:"removePublished,omitempty"`
}
