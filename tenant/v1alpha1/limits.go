package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// GatewayLimits are what one outside peer may take of what all share.
type GatewayLimits struct {
	// bandwidthPerPeer is what a peer may send through the gateway, and what may be sent to it, in bits per second: 20M, 1G. Left out,
	// it is not limited.
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('64k')) >= 0 && quantity(string(self)).compareTo(quantity('100G')) <= 0",message="bandwidthPerPeer must be bits per second from 64k to 100G, for example 20M"
	// +optional
	BandwidthPerPeer *resource.Quantity `json:"bandwidthPerPeer,omitempty"`
	// handshakesPerPeer is how many handshakes a peer may begin in a minute. One that is connected begins one in two minutes, one that
	// gets no answer twelve in one. With the gateway's datapath Kernel it is what the kernel allows, fifty a second.
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=3000
	// +optional
	HandshakesPerPeer int32 `json:"handshakesPerPeer,omitempty"`
	// connectionsPerPeer is how many TCP connections a peer may have open to each member, and to the gateway, for all Services together.
	// +kubebuilder:default=1024
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=5000
	// +optional
	ConnectionsPerPeer int32 `json:"connectionsPerPeer,omitempty"`
	// flowsPerPeer is how many UDP flows a peer may have open to each member, and to the gateway, for all Services together. Look-ups of
	// names, on port 53, are not counted.
	// +kubebuilder:default=256
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=512
	// +optional
	FlowsPerPeer int32 `json:"flowsPerPeer,omitempty"`
}
