package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MaxInboundRules bounds Policy.Inbound, as its marker does.
const MaxInboundRules = 32

// Policy says which outside peers reach which exposed Services. Where there is one, what it does not grant is denied. Members are not
// subject to it.
type Policy struct {
	// inbound are the rules of what TunnelPeers reach. Each adds to the others, and their order does not matter. An empty list grants
	// nothing.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +required
	Inbound []InboundRule `json:"inbound"`
}

// InboundRule grants Services to peers.
type InboundRule struct {
	// peers picks TunnelPeers of the tunnel by their labels. The empty selector, {}, picks all of them.
	// +required
	Peers PeerSelector `json:"peers"`
	// services are those that the peers reach, of spec.expose. Left out, all of spec.expose, whatever will be there.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +optional
	Services []string `json:"services,omitempty"`
	// ports are those of the Services that the peers reach, as the Services number them. Left out, all of them.
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Ports []Port `json:"ports,omitempty"`
}

// PeerSelector picks TunnelPeers by their labels, as a LabelSelector does, within bounds. All of it must match.
type PeerSelector struct {
	// matchLabels are labels that a peer must have.
	// +kubebuilder:validation:MaxProperties=16
	// +optional
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
	// matchExpressions are what must be true of a peer's labels.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +optional
	MatchExpressions []PeerRequirement `json:"matchExpressions,omitempty"`
}

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`
type LabelValue string

// PeerRequirement is what must be true of one label.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0",message="values must be there with the operators In and NotIn, and only with them"
type PeerRequirement struct {
	// key of the label.
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	// +required
	Key string `json:"key"`
	// operator is In or NotIn (the values), Exists or DoesNotExist. A peer without the label matches NotIn and DoesNotExist.
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	// +required
	Operator metav1.LabelSelectorOperator `json:"operator"`
	// values of the operators In and NotIn.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Values []LabelValue `json:"values,omitempty"`
}
