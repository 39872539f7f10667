package v1alpha1

// RouteMapping gives the hosts behind a peer other addresses inside the tunnel than they have, one to one.
//
// +kubebuilder:validation:XValidation:rule="!isCIDR(self.mapTo) || !isCIDR(self.route) || cidr(self.mapTo).ip().family() == cidr(self.route).ip().family() && cidr(self.mapTo).prefixLength() == cidr(self.route).prefixLength() && self.mapTo != self.route",message="mapTo must be another range of route's family and length, for example 192.168.20.0/24 for 192.168.10.0/24"
type RouteMapping struct {
	// route is one of the peer's routes, and what the hosts there have.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=43
	// +required
	Route string `json:"route"`
	// mapTo is what everybody in the tunnel uses instead: the same host bits in this range.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked() && !['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/96', 'fe80::/10', 'ff00::/8'].exists(r, cidr(r).containsCIDR(self) || cidr(self).containsCIDR(r))",message="mapTo must be a CIDR without host bits that is not loopback, link-local or multicast, for example 192.168.20.0/24"
	// +required
	MapTo string `json:"mapTo"`
}
