package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// TunnelPeer is a WireGuard device or site outside the cluster. Its private key never enters the cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=tp,categories=wireguard
// +kubebuilder:printcolumn:name="Tunnel",type=string,JSONPath=`.spec.tunnel`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Connected",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].status`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Endpoint",type=string,JSONPath=`.spec.endpoint`,priority=1
// +kubebuilder:printcolumn:name="Handshake",type=date,JSONPath=`.status.lastHandshake`,priority=1
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expiresAt`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TunnelPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the tenant says of the peer.
	// +required
	Spec TunnelPeerSpec `json:"spec"`
	// status is what the operator sees.
	// +optional
	Status TunnelPeerStatus `json:"status,omitempty"`
}

// TunnelPeerSpec is what the tenant says of a peer.
//
// +kubebuilder:validation:XValidation:rule="!has(self.mappings) || self.mappings.all(m, has(self.routes) && m.route in self.routes)",message="mappings must be of routes of the peer"
type TunnelPeerSpec struct {
	// tunnel is the name of a TenantTunnel in this namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="tunnel is immutable"
	// +required
	Tunnel string `json:"tunnel"`
	// publicKey is the peer's WireGuard public key, as `wg pubkey` prints it.
	// +kubebuilder:validation:MaxLength=44
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$') && self != 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='",message="publicKey must be 32 bytes in base64 as wg pubkey prints them (44 characters), not all zero"
	// +required
	PublicKey string `json:"publicKey"`
	// endpoint is the IP address or DNS name and the UDP port to dial, for example 203.0.113.7:51820, [2001:db8::7]:51820 or
	// vpn.example.com:51820. A name is looked up by each member, and again while the peer does not answer. Left out, the peer dials.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=260
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\\\\.)*[a-z]([-a-z0-9]{0,61}[a-z0-9])?\\\\.?:[1-9][0-9]{0,4}$') ? int(self.substring(self.lastIndexOf(':') + 1)) <= 65535 : self.matches('^([0-9.]+|\\\\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\\\\]):[1-9][0-9]{0,4}$') && isIP(self.substring(0, self.lastIndexOf(':')).replace('[', '').replace(']', '')) && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535 && ip(self.substring(0, self.lastIndexOf(':')).replace('[', '').replace(']', '')).isGlobalUnicast()",message="endpoint must be an IP address, not loopback, link-local or multicast, or a DNS name in lower case, and a port, for example 203.0.113.7:51820, [2001:db8::7]:51820 or vpn.example.com:51820"
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// addresses are the peer's own inside the tunnel: at most one IPv4 address, of addressing.ipv4Pool, and one IPv6 address, of the
	// tunnel's /64, for example fd12:3456:789a:1::7. Left out, a peer without routes is given some; status.addresses says which.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a) && self.all(b, a == b || isIP(b) && ip(a).family() != ip(b).family()))",message="addresses must be one IPv4 address, one IPv6 address or one of each, for example 10.77.0.7"
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// routes are the addresses behind the peer. No two peers of a tunnel may have overlapping routes.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.all(r, isCIDR(r) && cidr(r) == cidr(r).masked())",message="routes must be CIDRs without host bits, for example 192.168.10.0/24"
	// +kubebuilder:validation:XValidation:rule="!self.exists(r, isCIDR(r) && (cidr(r).ip().isLoopback() || cidr(r).ip().isLinkLocalUnicast() || cidr(r).ip().isLinkLocalMulticast() || cidr('224.0.0.0/4').containsCIDR(r) || cidr('ff00::/8').containsCIDR(r)))",message="routes must not be loopback, link-local or multicast"
	// +optional
	Routes []string `json:"routes,omitempty"`
	// mappings give routes other addresses inside the tunnel, where what a site uses collides with another's, or with the cluster's. It
	// is mapTo then that must not overlap. They need a tunnel with spec.gateway, which rewrites the packets, and not with the datapath Kernel.
	// +listType=map
	// +listMapKey=route
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Mappings []RouteMapping `json:"mappings,omitempty"`
	// presharedKey is mixed into the handshake with the peer, besides both sides' own keys. It needs a tunnel with spec.gateway. Left
	// out, there is none.
	// +optional
	PresharedKey *PresharedKey `json:"presharedKey,omitempty"`
	// keepaliveSeconds is the interval of WireGuard's persistent keepalive; 0 is off.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	KeepaliveSeconds int32 `json:"keepaliveSeconds,omitempty"`
	// state takes the peer out of the tunnel for a while, and back in. What it holds, its key and its routes, stays its own meanwhile.
	// +kubebuilder:default=Active
	// +optional
	State PeerState `json:"state,omitempty"`
	// expiresAt is when the peer leaves the tunnel for good, unless the time is moved: for a contractor's laptop, say. Left out,
	// never. The object stays, and with it what the peer holds, until somebody deletes it.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// PresharedKey says where a preshared key is. It is never in an object that others than the gateway read.
type PresharedKey struct {
	// secretKey is the entry of the Secret tenantwire-psk-TUNNEL in this namespace that holds the key, as `wg genpsk` prints it. The
	// gateway follows changes of it within two minutes; while it is missing or not a key, the peer is kept out.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$`
	// +required
	SecretKey string `json:"secretKey"`
}

// PeerState says whether a peer takes part.
//
// +kubebuilder:validation:Enum=Active;Suspended
type PeerState string

// The states.
const (
	PeerActive    PeerState = "Active"
	PeerSuspended PeerState = "Suspended"
)

// TunnelPeerStatus is what the operator sees of a peer.
type TunnelPeerStatus struct {
	// observedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are Accepted and, where the tunnel has a gateway, Connected.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// addresses are the peer's own inside the tunnel, which it must have on its interface.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// lastHandshake is the time of the handshake when Connected last changed: it does not follow every handshake.
	// +optional
	LastHandshake *metav1.Time `json:"lastHandshake,omitempty"`
}

// TunnelPeerList is a list of peers.
//
// +kubebuilder:object:root=true
type TunnelPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TunnelPeer `json:"items"`
}
