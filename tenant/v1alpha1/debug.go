package v1alpha1

// DebugAccess says whether a tunnel's pods do something for those who look for a fault.
//
// +kubebuilder:validation:Enum=Forbidden;Allowed
type DebugAccess string

// The two answers.
const (
	DebugForbidden DebugAccess = "Forbidden"
	DebugAllowed   DebugAccess = "Allowed"
)

// Debug is for those who look for a fault: what they ask a pod's sidecar on its loopback, as kubectl tenantwire does through a forwarded
// port. The pod's other containers reach that loopback too. What is no longer allowed ends where it runs.
type Debug struct {
	// capture: packets are shown as they are inside the tunnel, decrypted (kubectl tenantwire capture).
	// +kubebuilder:default=Forbidden
	// +optional
	Capture DebugAccess `json:"capture,omitempty"`
	// bench: the tunnel is measured between two of its pods, which takes what it can of the network and the CPU while it runs
	// (kubectl tenantwire bench).
	// +kubebuilder:default=Forbidden
	// +optional
	Bench DebugAccess `json:"bench,omitempty"`
}
