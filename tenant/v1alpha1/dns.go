package v1alpha1

// DNS says where names are looked up that the tunnel's sites answer for.
type DNS struct {
	// zones are domains whose names are looked up at a site's own servers, through the tunnel, and nowhere else. Of two that hold a
	// name the longer one counts.
	// +listType=map
	// +listMapKey=domain
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +required
	Zones []DNSZone `json:"zones"`
}

// DNSZone is a domain and who knows the names in it.
type DNSZone struct {
	// domain holds itself and every name that ends with it, for example corp.internal.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`
	// +kubebuilder:validation:XValidation:rule="self != 'localhost' && !isIP(self)",message="domain must be a name other than localhost"
	// +required
	Domain string `json:"domain"`
	// servers are the addresses of the site's DNS servers, asked on port 53 in this order; the routes of a TunnelPeer must contain
	// them. They have to resolve what they are asked to the end, as recursive servers do.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="self.all(s, isIP(s) && ip(s).isGlobalUnicast() && !ip(s).isLinkLocalUnicast() && !ip(s).isLoopback())",message="servers must be IP addresses that are neither loopback, link-local nor multicast"
	// +required
	Servers []string `json:"servers"`
}
