package v1alpha1

import corev1 "k8s.io/api/core/v1"

// Gateway is what a tunnel's gateway pods are.
type Gateway struct {
	// replicas is how many pods there are. One is active, the others stand by to take over.
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=5
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// service is how outside peers reach the active pod.
	// +kubebuilder:default={}
	// +optional
	Service GatewayService `json:"service,omitempty"`
	// endpoints are where outside peers reach the Service, HOST:PORT, where the cluster does not know it: behind a router that forwards
	// the port, for example. Who is told how to join is told the first of them.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=260
	// +kubebuilder:validation:XValidation:rule="self.all(e, e.matches('^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\\\\.)*[a-z]([-a-z0-9]{0,61}[a-z0-9])?:[1-9][0-9]{0,4}$') ? int(e.substring(e.lastIndexOf(':') + 1)) <= 65535 : e.matches('^([0-9.]+|\\\\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\\\\]):[1-9][0-9]{0,4}$') && isIP(e.substring(0, e.lastIndexOf(':')).replace('[', '').replace(']', '')) && int(e.substring(e.lastIndexOf(':') + 1)) <= 65535)",message="endpoints must be an IP address or a DNS name in lower case and a port, for example vpn.example.com:51820 or [2001:db8::7]:51820"
	// +optional
	Endpoints []string `json:"endpoints,omitempty"`
	// resources of each pod's container. Left out, they are a sidecar's.
	// +optional
	Resources *GatewayResources `json:"resources,omitempty"`
	// datapath is what moves the packets in the gateway's pods. Netstack needs no privileges. TUN needs NET_ADMIN, so a namespace that
	// enforces the Pod Security level privileged, and /dev/net/tun; Kernel needs NET_ADMIN and nodes whose kernel has WireGuard. Without
	// them there is no new gateway pod, as it is never replaced by another. Auto takes TUN where that works, and Netstack elsewhere. With
	// Kernel, peers have no mappings, limits.handshakesPerPeer does not count, and what is longer than the path to a peer takes is
	// dropped in silence. A change replaces the pods.
	// +kubebuilder:default=Netstack
	// +optional
	Datapath DatapathChoice `json:"datapath,omitempty"`
	// limits are what one outside peer may take of what all share. Changes take effect on what runs.
	// +kubebuilder:default={}
	// +optional
	Limits GatewayLimits `json:"limits,omitempty"`
}

// GatewayResources are a gateway container's.
type GatewayResources struct {
	// requests are what a pod is scheduled by.
	// +kubebuilder:validation:MaxProperties=3
	// +kubebuilder:validation:XValidation:rule="self.all(r, r in ['cpu', 'memory', 'ephemeral-storage'])",message="resources must be cpu, memory or ephemeral-storage"
	// +optional
	Requests corev1.ResourceList `json:"requests,omitempty"`
	// limits are what a pod cannot exceed.
	// +kubebuilder:validation:MaxProperties=3
	// +kubebuilder:validation:XValidation:rule="self.all(r, r in ['cpu', 'memory', 'ephemeral-storage'])",message="resources must be cpu, memory or ephemeral-storage"
	// +optional
	Limits corev1.ResourceList `json:"limits,omitempty"`
}

// GatewayServiceType is how far a gateway's Service reaches.
//
// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
type GatewayServiceType string

// The types of a gateway's Service.
const (
	GatewayClusterIP    GatewayServiceType = "ClusterIP"
	GatewayNodePort     GatewayServiceType = "NodePort"
	GatewayLoadBalancer GatewayServiceType = "LoadBalancer"
)

// GatewayService is the Service of a tunnel's gateway.
//
// +kubebuilder:validation:XValidation:rule="!has(self.nodePort) || self.type != 'ClusterIP'",message="nodePort needs type NodePort or LoadBalancer"
type GatewayService struct {
	// type is the Service's.
	// +kubebuilder:default=ClusterIP
	// +optional
	Type GatewayServiceType `json:"type,omitempty"`
	// port is the UDP port of the Service.
	// +kubebuilder:default=51820
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port int32 `json:"port,omitempty"`
	// nodePort is the UDP port on every node. Left out, the cluster chooses.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	NodePort *int32 `json:"nodePort,omitempty"`
	// annotations are the Service's, for those who provide load balancers.
	// +kubebuilder:validation:MaxProperties=32
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// GatewayStatus is what the operator sees of a tunnel's gateway.
type GatewayStatus struct {
	// publicKey is the gateway's WireGuard public key, which outside peers need to know.
	// +kubebuilder:validation:MaxLength=44
	// +optional
	PublicKey string `json:"publicKey,omitempty"`
	// addresses are the gateway's own inside the tunnel, whichever pod is active. It answers there, on port 53, for the names of
	// exposed Services: NAME.TUNNEL.tunnel.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// active is the pod that carries traffic at present.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Active string `json:"active,omitempty"`
	// egress is the ports of the gateway's pods that the Services of spec.egress lead to.
	// +listType=map
	// +listMapKey=host
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MaxItems=2048
	// +optional
	Egress []EgressPort `json:"egress,omitempty"`
}

// EgressPort is the port of the gateway's pods that leads to one port of an egress host.
type EgressPort struct {
	// host is that of the entry in spec.egress.
	// +kubebuilder:validation:MaxLength=253
	Host string `json:"host"`
	Port `json:",inline"`
	// gatewayPort stays the same as long as the entry is there.
	// +kubebuilder:validation:Minimum=20000
	// +kubebuilder:validation:Maximum=22047
	GatewayPort int32 `json:"gatewayPort"`
}
