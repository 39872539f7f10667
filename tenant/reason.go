package tenant

// Reason says why, in one word: it is the reason of a condition, of an Event and the label of a metric at once.
type Reason string

// Reasons of the condition Accepted, of tunnels and peers.
const (
	// ReasonAccepted: nothing is wrong.
	ReasonAccepted Reason = "Accepted"
	// ReasonEgressWithoutRoute: an egress address is behind no accepted TunnelPeer; its name is refused. The tunnel stays accepted.
	ReasonEgressWithoutRoute Reason = "EgressWithoutRoute"
	// ReasonDNSWithoutRoute: a server of spec.dns is behind no accepted TunnelPeer and is not asked. The tunnel stays accepted.
	ReasonDNSWithoutRoute Reason = "DNSServerWithoutRoute"
	// ReasonNameClash: an egress host has the name of an exposed Service, which keeps it. The tunnel stays accepted.
	ReasonNameClash Reason = "NameClash"
	// ReasonServiceTaken: a Service that spec.egress asks for is somebody else's, who keeps it. The tunnel stays accepted.
	ReasonServiceTaken Reason = "EgressServiceTaken"
	// ReasonServiceWithoutIPv4: there is no IPv4 address left for an exposed Service. The tunnel stays accepted.
	ReasonServiceWithoutIPv4 Reason = "ServiceWithoutIPv4"
	// ReasonTunnelNotFound: the TunnelPeer's tunnel does not exist (yet).
	ReasonTunnelNotFound Reason = "TunnelNotFound"
	// ReasonInvalid: a field does not parse.
	ReasonInvalid Reason = "Invalid"
	// ReasonRouteOverlap: a route overlaps an older peer's or the tunnel's own addresses.
	ReasonRouteOverlap Reason = "RouteOverlap"
	// ReasonDuplicateAddress: a member or an older peer has one of the addresses.
	ReasonDuplicateAddress Reason = "DuplicateAddress"
	// ReasonDuplicateKey: an older peer or a member has the same public key.
	ReasonDuplicateKey Reason = "DuplicateKey"
)

// Reasons of a peer that holds its key and its routes, and yet takes no part.
const (
	// ReasonSuspended: spec.state says so.
	ReasonSuspended Reason = "Suspended"
	// ReasonExpired: spec.expiresAt has come.
	ReasonExpired Reason = "Expired"
)

// Reasons of the condition Connected of a peer, which a gateway tells.
const (
	// ReasonHandshake: there was one in the last three minutes.
	ReasonHandshake Reason = "Handshake"
	// ReasonIdle: there was none. Nobody knows whether the peer is away or has nothing to say.
	ReasonIdle Reason = "Idle"
	// ReasonPresharedKeyMissing: the gateway does not find spec.presharedKey. The peer is kept out.
	ReasonPresharedKeyMissing Reason = "PresharedKeyMissing"
	// ReasonPresharedKeyInvalid: what the gateway finds is no key. The peer is kept out.
	ReasonPresharedKeyInvalid Reason = "PresharedKeyInvalid"
)

// Reasons of the condition Ready of a tunnel, and of what keeps pods out of it.
const (
	// ReasonAllReady: every member's data path is up.
	ReasonAllReady Reason = "AllMembersReady"
	// ReasonNoMembers: no pod has joined yet.
	ReasonNoMembers Reason = "NoMembers"
	// ReasonMembersNotReady: some member's data path is not up.
	ReasonMembersNotReady Reason = "MembersNotReady"
	// ReasonDatapathUnavailable: spec.datapath asks for what some member cannot have where it is.
	ReasonDatapathUnavailable Reason = "DatapathUnavailable"
	// ReasonPoolExhausted: spec.addressing.ipv4Pool has no address left.
	ReasonPoolExhausted Reason = "AddressPoolExhausted"
	// ReasonInvalidPorts: a pod's tenantwire.dev/expose annotation does not parse or lists too much.
	ReasonInvalidPorts Reason = "InvalidPorts"
	// ReasonGatewayNotReady: spec.gateway asks for one, and none of its pods is active.
	ReasonGatewayNotReady Reason = "GatewayNotReady"
	// ReasonGatewayDatapathForbidden: spec.gateway.datapath asks for what the namespace's Pod Security level forbids. No gateway pod is made.
	ReasonGatewayDatapathForbidden Reason = "GatewayDatapathForbidden"
	// ReasonApplyFailed: an object of the operator's could not be written.
	ReasonApplyFailed Reason = "ApplyFailed"
)

// Reasons of a member: of its condition Ready (with ReasonDatapathUnavailable), and of the Event that tells its datapath.
const (
	// ReasonDataPathUp: the member carries traffic.
	ReasonDataPathUp Reason = "DataPathUp"
	// ReasonDataPathDown: it does not, or not yet.
	ReasonDataPathDown Reason = "DataPathDown"
	// ReasonDatapathChosen: the member says what moves its packets, and why.
	ReasonDatapathChosen Reason = "DatapathChosen"
	// ReasonDebugging: somebody who reaches the pod's loopback has it do what spec.debug allows.
	ReasonDebugging Reason = "Debugging"
)

// Decision is a verdict on one object.
type Decision struct {
	Reason  Reason
	Message string
}

// NeedsChange says whether a tunnel that is not ready stays so until somebody changes something.
func (d Decision) NeedsChange() bool {
	return d.Reason == ReasonPoolExhausted || d.Reason == ReasonDatapathUnavailable || d.Reason == ReasonGatewayDatapathForbidden
}

// Accepted says whether the object is acted on.
func (d Decision) Accepted() bool {
	switch d.Reason {
	case ReasonAccepted, ReasonEgressWithoutRoute, ReasonDNSWithoutRoute, ReasonNameClash, ReasonServiceTaken, ReasonServiceWithoutIPv4:
		return true
	}
	return false
}
