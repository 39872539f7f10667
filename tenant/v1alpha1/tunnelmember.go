package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TunnelMember is a pod that joined a tunnel. The operator alone writes it; it goes with its pod.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=tm,categories=wireguard
// +kubebuilder:printcolumn:name="Tunnel",type=string,JSONPath=`.spec.tunnel`
// +kubebuilder:printcolumn:name="Role",type=string,JSONPath=`.spec.role`,priority=1
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Datapath",type=string,JSONPath=`.status.datapath`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Endpoint",type=string,JSONPath=`.status.endpoint`,priority=1
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`,priority=1
// +kubebuilder:printcolumn:name="Public-Key",type=string,JSONPath=`.status.publicKey`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TunnelMember struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the operator gave the member.
	// +required
	Spec TunnelMemberSpec `json:"spec"`
	// status is what the member said of itself.
	// +optional
	Status TunnelMemberStatus `json:"status,omitempty"`
}

// MemberRole is what a pod is to its tunnel.
//
// +kubebuilder:validation:Enum=Member;Gateway
type MemberRole string

// The roles.
const (
	// RoleMember is an application's pod.
	RoleMember MemberRole = "Member"
	// RoleGateway is a pod of the tunnel's own, between members and outside peers. Those of a tunnel share one key.
	RoleGateway MemberRole = "Gateway"
)

// TunnelMemberSpec is what the operator gave a member.
type TunnelMemberSpec struct {
	// tunnel is the name of the TenantTunnel.
	// +kubebuilder:validation:MaxLength=63
	// +required
	Tunnel string `json:"tunnel"`
	// role is what the pod is to the tunnel.
	// +kubebuilder:default=Member
	// +optional
	Role MemberRole `json:"role,omitempty"`
	// podUID is the UID of the pod of the same name; only that pod can register as this member.
	// +kubebuilder:validation:MaxLength=64
	// +required
	PodUID string `json:"podUID"`
	// addresses are the member's addresses inside the tunnel.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=45
	// +required
	Addresses []string `json:"addresses"`
	// ports are what the pod declares or lists by annotation; its tunnel addresses accept these, and those behind exposed Services.
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MaxItems=256
	// +optional
	Ports []Port `json:"ports,omitempty"`
}

// TunnelMemberStatus is what a member said of itself when it registered.
type TunnelMemberStatus struct {
	// publicKey is the member's WireGuard public key in base64; empty until it registered.
	// +kubebuilder:validation:MaxLength=44
	// +optional
	PublicKey string `json:"publicKey,omitempty"`
	// endpoint is the pod's address and UDP port.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// datapath is what moves its packets.
	// +optional
	Datapath DatapathChoice `json:"datapath,omitempty"`
	// datapathReason says why it took that datapath.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	DatapathReason string `json:"datapathReason,omitempty"`
	// version is that of the member's program.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Version string `json:"version,omitempty"`
	// conditions holds Ready: the member's data path is up.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// TunnelMemberList is a list of members.
//
// +kubebuilder:object:root=true
type TunnelMemberList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TunnelMember `json:"items"`
}
