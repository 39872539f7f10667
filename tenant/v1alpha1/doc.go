// Package v1alpha1 is TenantWire's API: TenantTunnel (one WireGuard network of a tenant), TunnelPeer (a device outside the
// cluster) and TunnelMember (a pod that joined, written by the operator alone). Defaults and what one object can say about itself
// are in the markers; what needs two objects is decided in package tenant.
//
// +kubebuilder:object:generate=true
// +groupName=tenantwire.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every kind here.
var GroupVersion = schema.GroupVersion{Group: "tenantwire.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&TenantTunnel{}, &TenantTunnelList{}, &TunnelPeer{}, &TunnelPeerList{}, &TunnelMember{}, &TunnelMemberList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Labels and annotations that tenants and the operator write.
const (
	// LabelInject on a namespace opts it in; the only value that does is InjectEnabled.
	LabelInject = "tenantwire.dev/inject"
	// InjectEnabled is the value of LabelInject that opts a namespace in.
	InjectEnabled = "enabled"
	// AnnotationInject on a pod with the value "false" opts the pod out, unless its tunnel enforces membership.
	AnnotationInject = "tenantwire.dev/inject"
	// AnnotationTunnel on a pod names its tunnel; only needed where the namespace has several.
	AnnotationTunnel = "tenantwire.dev/tunnel"
	// AnnotationExpose on a pod lists the ports its tunnel address accepts besides the declared ones: "8080, 53/udp".
	AnnotationExpose = "tenantwire.dev/expose"
	// AnnotationCarry on a pod limits the names it carries to those listed: "web, db.corp.internal"; "" carries none.
	AnnotationCarry = "tenantwire.dev/carry"
	// LabelTunnel on an injected pod and on its TunnelMember names the tunnel.
	LabelTunnel = "tenantwire.dev/tunnel"
	// LabelRole on a pod with LabelTunnel says that it is no application but the tunnel's own; the only value is LabelRoleGateway.
	LabelRole = "tenantwire.dev/role"
	// LabelRoleGateway marks the tunnel's gateway pods.
	LabelRoleGateway = "gateway"
	// LabelViaGateway on a pod without a sidecar with the value ViaGatewayEnabled lets it use the egress Services of its namespace, and be
	// reached through the gateway as one of the pods behind an exposed Service. The webhook sets it on the pods of opted-in namespaces that
	// it lets through, where a tunnel has a gateway.
	LabelViaGateway = "tenantwire.dev/via-gateway"
	// ViaGatewayEnabled and ViaGatewayDisabled are the values of LabelViaGateway.
	ViaGatewayEnabled  = "enabled"
	ViaGatewayDisabled = "disabled"
	// LabelEgress on a Service with the value EgressEnabled says that it was made for a tunnel's egress.
	LabelEgress = "tenantwire.dev/egress"
	// EgressEnabled is the value of LabelEgress.
	EgressEnabled = "enabled"
)

// Protocol of a port.
//
// +kubebuilder:validation:Enum=TCP;UDP
type Protocol string

// The protocols a tunnel carries by port.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// Port is one transport port.
type Port struct {
	// port is the number, 1 to 65535.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +required
	Port int32 `json:"port"`
	// protocol is TCP or UDP.
	// +kubebuilder:default=TCP
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`
}

// Condition types.
const (
	// ConditionAccepted says whether the object is valid together with its neighbours and is acted on.
	ConditionAccepted = "Accepted"
	// ConditionReady says whether it works: a tunnel whose members are all up, a member whose data path is up.
	ConditionReady = "Ready"
	// ConditionConnected says whether a tunnel's gateway has heard of a peer lately; Unknown: it has not, which may mean nothing.
	ConditionConnected = "Connected"
)
