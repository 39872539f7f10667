package v1alpha1

// ServiceAddresses are an exposed Service's own addresses inside a tunnel with a gateway, which answers there on the Service's ports.
type ServiceAddresses struct {
	// service is that of the entry in spec.expose.
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service"`
	// addresses stay the same as long as the Service is exposed: an IPv6 address and, where the tunnel has a pool that is not full, an
	// IPv4 one.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=45
	// +optional
	Addresses []string `json:"addresses,omitempty"`
}
