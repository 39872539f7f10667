package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// TenantTunnel is one WireGuard network of a tenant, with its own keys, addresses and policy. Pods of the namespace become its
// members when they are created.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=tt,categories=wireguard
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Members",type=integer,JSONPath=`.status.members.total`
// +kubebuilder:printcolumn:name="Up",type=integer,JSONPath=`.status.members.ready`
// +kubebuilder:printcolumn:name="IPv6",type=string,JSONPath=`.status.addressing.ipv6Prefix`
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.status.addressing.ipv4Pool`,priority=1
// +kubebuilder:printcolumn:name="Gateway",type=string,JSONPath=`.status.gateway.active`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="metadata.name must be at most 63 characters: it is used as a label value"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.gateway) || self.metadata.name.matches('^[a-z]([-a-z0-9]{0,42}[a-z0-9])?$')",message="metadata.name of a tunnel with spec.gateway must be at most 44 lower-case letters, digits and dashes, and begin with a letter: its Service is called tenantwire-gateway-NAME"
type TenantTunnel struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the tenant wants.
	// +optional
	// +kubebuilder:default={}
	Spec TenantTunnelSpec `json:"spec,omitempty"`
	// status is what the operator sees.
	// +optional
	Status TenantTunnelStatus `json:"status,omitempty"`
}

// TenantTunnelSpec is what the tenant wants of a tunnel.
//
// +kubebuilder:validation:XValidation:rule="!has(self.expose) || !has(self.egress) || self.egress.all(e, !self.expose.exists(s, s.service == e.host))",message="egress must not have a host of the same name as a Service in expose"
// +kubebuilder:validation:XValidation:rule="!has(self.egress) || has(self.addressing.ipv4Pool) || !self.egress.exists(e, has(e.address) && isIP(e.address) && ip(e.address).family() == 4)",message="egress with an IPv4 address needs addressing.ipv4Pool: members have no IPv4 address to send from otherwise"
// +kubebuilder:validation:XValidation:rule="!has(self.egress) || has(self.gateway) || !self.egress.exists(e, has(e.service))",message="egress[].service needs gateway: the Service leads to its pods"
// +kubebuilder:validation:XValidation:rule="!has(self.expose) || !has(self.egress) || self.egress.all(e, !has(e.service) || !self.expose.exists(s, s.service == e.service))",message="egress[].service must not be a Service in expose"
// +kubebuilder:validation:XValidation:rule="!has(self.policy) || self.policy.inbound.all(r, !has(r.services) || r.services.all(s, has(self.expose) && self.expose.exists(e, e.service == s)))",message="policy.inbound[].services must be Services in expose"
// +kubebuilder:validation:XValidation:rule="!has(self.egress) || self.egress.all(e, has(e.address) || has(self.dns) && self.dns.zones.exists(z, e.host == z.domain || e.host.endsWith('.' + z.domain)))",message="egress without address needs a zone in dns that holds host: nobody else is asked where it is"
// +kubebuilder:validation:XValidation:rule="!has(self.dns) || has(self.addressing.ipv4Pool) || !self.dns.zones.exists(z, z.servers.exists(s, isIP(s) && ip(s).family() == 4))",message="dns with an IPv4 server needs addressing.ipv4Pool: members have no IPv4 address to ask from otherwise"
type TenantTunnelSpec struct {
	// members says which pods of the namespace join and whether they may opt out.
	// +optional
	// +kubebuilder:default={}
	Members Members `json:"members,omitempty"`

	// datapath is what moves the packets in members. Auto takes the fastest that the host and the namespace's Pod Security level
	// allow; the others are never replaced by a different one: a pod that cannot have it is refused or does not start. It counts
	// for pods that are created afterwards.
	// +kubebuilder:default=Auto
	// +optional
	Datapath DatapathChoice `json:"datapath,omitempty"`

	// addressing says which addresses members get inside the tunnel. Tunnels may overlap with each other and with anything else.
	// +optional
	// +kubebuilder:default={}
	Addressing Addressing `json:"addressing,omitempty"`

	// expose lists the Services of this namespace that members reach by name through the tunnel, pod to pod and encrypted.
	// +listType=map
	// +listMapKey=service
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Expose []ExposedService `json:"expose,omitempty"`

	// egress lists hosts outside the cluster that members reach by name through the tunnel.
	// +listType=map
	// +listMapKey=host
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.service) || self.exists_one(b, has(b.service) && b.service == a.service))",message="egress must not have two entries with the same service"
	// +optional
	Egress []EgressHost `json:"egress,omitempty"`

	// dns says where names are looked up that sites answer for: of egress hosts without an address, and those that proxies are asked
	// for. What is found has to be in the routes of a TunnelPeer.
	// +optional
	DNS *DNS `json:"dns,omitempty"`

	// proxies opens proxies on 127.0.0.1 in every member, for destinations that are not known beforehand.
	// +listType=map
	// +listMapKey=protocol
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.all(b, a.protocol == b.protocol || a.port != b.port))",message="proxies must not share a port"
	// +optional
	Proxies []Proxy `json:"proxies,omitempty"`

	// gateway runs pods of the tunnel's own that stand between its members and its TunnelPeers: both reach each other through the one
	// of them that is active, and outside peers need to know one key and one endpoint for all members. Left out, members dial the
	// peers that have an endpoint themselves, and have to be known there.
	// +optional
	Gateway *Gateway `json:"gateway,omitempty"`

	// policy says which TunnelPeers reach which Services of expose. Left out, every accepted peer reaches all of them.
	// +optional
	Policy *Policy `json:"policy,omitempty"`

	// debug says what the tunnel's pods do for those who may forward a port of them. Left out, nothing of it.
	// +optional
	Debug *Debug `json:"debug,omitempty"`
	// mtu is the MTU inside the tunnel in bytes. Left out, each member derives it from the interface that holds its pod's address. It is
	// the most that is sent: where the path to a peer takes less, packets to that peer are found to have to be shorter by probing.
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=8920
	// +optional
	MTU *int32 `json:"mtu,omitempty"`
}

// Enforcement says whether pods may stay outside their tunnel.
//
// +kubebuilder:validation:Enum=Optional;Required
type Enforcement string

// The levels of enforcement.
const (
	// EnforcementOptional lets a pod opt out with the annotation tenantwire.dev/inject: "false".
	EnforcementOptional Enforcement = "Optional"
	// EnforcementRequired refuses pods that opt out.
	EnforcementRequired Enforcement = "Required"
)

// Members says which pods join a tunnel.
type Members struct {
	// selector picks the pods that join by their labels. Left out, every pod of the namespace joins.
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && size(e.values) > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || size(e.values) == 0))",message="selector.matchExpressions must have the operator In or NotIn with values, or Exists or DoesNotExist without"
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// enforcement says whether a selected pod may opt out by annotation.
	// +kubebuilder:default=Optional
	// +optional
	Enforcement Enforcement `json:"enforcement,omitempty"`
}

// DatapathChoice is what moves the packets in members.
//
// +kubebuilder:validation:Enum=Auto;Kernel;TUN;Netstack
type DatapathChoice string

// The choices.
const (
	DatapathAuto     DatapathChoice = "Auto"
	DatapathKernel   DatapathChoice = "Kernel"
	DatapathTUN      DatapathChoice = "TUN"
	DatapathNetstack DatapathChoice = "Netstack"
)

// Addressing is where members' addresses come from.
//
// +kubebuilder:validation:XValidation:rule="has(self.ipv6Prefix) == has(oldSelf.ipv6Prefix) && (!has(self.ipv6Prefix) || self.ipv6Prefix == oldSelf.ipv6Prefix)",message="ipv6Prefix is immutable: members hold addresses of it; make a new tunnel instead"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.ipv4Pool) || has(self.ipv4Pool) && self.ipv4Pool == oldSelf.ipv4Pool",message="ipv4Pool is immutable once set: members hold addresses of it; make a new tunnel instead"
type Addressing struct {
	// ipv6Prefix is a /64 of unique local addresses (fd00::/8). Left out, it is derived from the tunnel's UID.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 6 && cidr(self).prefixLength() == 64 && cidr('fd00::/8').containsCIDR(self) && cidr(self) == cidr(self).masked()",message="ipv6Prefix must be a /64 inside fd00::/8 without host bits, for example fd12:3456:789a:1::/64"
	// +optional
	IPv6Prefix string `json:"ipv6Prefix,omitempty"`
	// ipv4Pool gives every member an IPv4 address too: a range of private addresses between /8 and /28. It can be added later.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4 && cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 28 && cidr(self) == cidr(self).masked() && (cidr('10.0.0.0/8').containsCIDR(self) || cidr('172.16.0.0/12').containsCIDR(self) || cidr('192.168.0.0/16').containsCIDR(self) || cidr('100.64.0.0/10').containsCIDR(self))",message="ipv4Pool must be a range without host bits, /8 to /28, inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10, for example 10.77.0.0/24"
	// +optional
	IPv4Pool string `json:"ipv4Pool,omitempty"`
}

// ExposedService is a Service that members reach by name through the tunnel.
type ExposedService struct {
	// service is the name of a Service in this namespace; it need not exist yet.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	// +required
	Service string `json:"service"`
}

// EgressHost is a host outside the cluster that members reach by name.
type EgressHost struct {
	// host is the name that members use, for example db.corp.internal.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	// +kubebuilder:validation:XValidation:rule="self != 'localhost' && !isIP(self)",message="host must be a name other than localhost"
	// +required
	Host string `json:"host"`
	// address is the host's address on the far side of the tunnel; the routes of a TunnelPeer must contain it. Left out, the host is
	// looked up at the servers of the longest zone of dns that holds it, whenever it is connected to.
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).isGlobalUnicast() && !ip(self).isLinkLocalUnicast() && !ip(self).isLoopback()",message="address must be an IP address that is neither loopback, link-local nor multicast"
	// +optional
	Address string `json:"address,omitempty"`
	// ports are carried to the same ports of the host.
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +required
	Ports []Port `json:"ports"`
	// service is the name of a Service to make in this namespace, by which its pods without a sidecar reach the host on the same ports:
	// it leads to the active gateway pod, which carries them through the tunnel. Needs gateway. Left out, no Service is made. A Service
	// of that name that somebody else made is left alone, and the condition Accepted says so.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('tenantwire-')",message="service must not begin with tenantwire-"
	// +optional
	Service string `json:"service,omitempty"`
}

// ProxyProtocol is how an application talks to a proxy.
//
// +kubebuilder:validation:Enum=SOCKS5;HTTPConnect
type ProxyProtocol string

// The proxies there are.
const (
	SOCKS5      ProxyProtocol = "SOCKS5"
	HTTPConnect ProxyProtocol = "HTTPConnect"
)

// ProxyEnv says whether applications are told of a proxy.
//
// +kubebuilder:validation:Enum=Unset;Set
type ProxyEnv string

// Whether applications are told of a proxy.
const (
	ProxyEnvUnset ProxyEnv = "Unset"
	ProxyEnvSet   ProxyEnv = "Set"
)

// Proxy is a proxy on 127.0.0.1 in every member.
type Proxy struct {
	// protocol is what the proxy speaks.
	// +required
	Protocol ProxyProtocol `json:"protocol"`
	// port on 127.0.0.1.
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=65535
	// +required
	Port int32 `json:"port"`
	// env says whether the containers get the usual proxy variables (ALL_PROXY for SOCKS5, HTTPS_PROXY for HTTPConnect).
	// Variables that a container sets itself are left alone.
	// +kubebuilder:default=Unset
	// +optional
	Env ProxyEnv `json:"env,omitempty"`
}

// TenantTunnelStatus is what the operator sees of a tunnel.
type TenantTunnelStatus struct {
	// observedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// version is that of the operator that says so.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Version string `json:"version,omitempty"`
	// conditions are Accepted and Ready.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// addressing is what is in use.
	// +optional
	Addressing *AddressingStatus `json:"addressing,omitempty"`
	// members counts the tunnel's members.
	// +optional
	Members *MemberCounts `json:"members,omitempty"`
	// datapaths counts registered members by the datapath they took.
	// +listType=map
	// +listMapKey=datapath
	// +optional
	Datapaths []DatapathCount `json:"datapaths,omitempty"`
	// gateway is the tunnel's gateway, where it has one.
	// +optional
	Gateway *GatewayStatus `json:"gateway,omitempty"`
	// services are the exposed Services' own addresses inside the tunnel, where it has a gateway. It answers there on the Services' ports.
	// +listType=map
	// +listMapKey=service
	// +kubebuilder:validation:MaxItems=64
	// +optional
	Services []ServiceAddresses `json:"services,omitempty"`
}

// AddressingStatus is the addressing in use.
type AddressingStatus struct {
	// ipv6Prefix is the /64 that members' addresses come from.
	// +optional
	IPv6Prefix string `json:"ipv6Prefix,omitempty"`
	// ipv4Pool is the range that members' IPv4 addresses come from.
	// +optional
	IPv4Pool string `json:"ipv4Pool,omitempty"`
}

// MemberCounts counts members.
type MemberCounts struct {
	// total counts all members.
	Total int32 `json:"total"`
	// ready counts the members whose data path is up.
	Ready int32 `json:"ready"`
}

// DatapathCount counts members of one datapath.
type DatapathCount struct {
	// datapath is what moves the packets.
	Datapath DatapathChoice `json:"datapath"`
	// members counts them.
	Members int32 `json:"members"`
}

// TenantTunnelList is a list of tunnels.
//
// +kubebuilder:object:root=true
type TenantTunnelList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TenantTunnel `json:"items"`
}
