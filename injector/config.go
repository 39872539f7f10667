package injector

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tenantwire/tenantwire/tenant"
)

// What injected pods have in common; the sidecar, the controllers and the manifests rely on it.
const (
	ContainerName  = tenant.SidecarName
	VolumePrefix   = "tenantwire-"
	IdentityVolume = VolumePrefix + "identity" // token and CA, from the platform
	StateVolume    = VolumePrefix + "state"    // key and last configuration, in memory
	IdentityPath   = "/var/run/tenantwire"
	StatePath      = "/var/lib/tenantwire"
	CAConfigMap    = "tenantwire-ca" // in every opted-in namespace; the operator writes it
	CAKey          = "ca.crt"
	TokenKey       = "token"
	ListenPort     = 51820 // UDP: the outer WireGuard port
	HealthPort     = 51821 // TCP: /readyz, /healthz and metrics
)

// tokenSeconds is how long a member's token lives; the kubelet renews it at 80 %.
const tokenSeconds = 3600

// stateSize bounds the memory-backed volume: a key and one configuration (at most wire.MaxEvent, 8 MiB, twice while it is
// replaced). It counts against the sidecar's memory limit only as far as it is used.
const stateSize = "16Mi"

// UnsetUser as Config.User leaves the sidecar's user to the platform, for clusters that assign each namespace a range of users.
const UnsetUser = -1

// Config is what the operator decides for every injected pod.
type Config struct {
	// Image is the sidecar's image.
	Image string
	// GatewayImage is the gateway's image.
	GatewayImage string
	// ImagePullPolicy of both.
	ImagePullPolicy corev1.PullPolicy
	// CoordinatorURL is where members register, for example https://tenantwire-coordinator.tenantwire-system.svc:8443.
	CoordinatorURL string
	// ClusterDomain is the DNS domain of Services.
	ClusterDomain string
	// User is the sidecar's user and group. It should differ from every application's; UnsetUser leaves it out.
	User int64
	// Resources of the sidecar.
	Resources corev1.ResourceRequirements
	// PodSecurityDefault is the level of namespaces that do not say one: what the cluster's Pod Security admission takes for them.
	PodSecurityDefault PodSecurityLevel
	// TUNResource is the extended resource of a device plugin that brings /dev/net/tun; empty: there is none. Sidecars ask for it
	// where the datapath is TUN.
	TUNResource corev1.ResourceName
	// TUNForAuto has those whose datapath is Auto ask for it too. A pod that asks is not scheduled where it is not offered.
	TUNForAuto bool
	// UserNamespaces gives pods whose sidecar gets NET_ADMIN a user namespace, where they would not notice.
	UserNamespaces UserNamespaces
}

// DefaultConfig is a Config without image and coordinator.
func DefaultConfig() Config {
	return Config{
		ImagePullPolicy: corev1.PullIfNotPresent,
		ClusterDomain:   "cluster.local",
		User:            65532,
		// Kubernetes' own.
		PodSecurityDefault: Privileged,
		UserNamespaces:     UserNamespacesAuto,
		// No CPU limit: it would throttle the data path in bursts. The request is what an idle sidecar needs.
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("10m"),
				corev1.ResourceMemory: resource.MustParse("24Mi"),
			},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
	}
}

// Validate says what is missing or wrong.
func (c Config) Validate() error {
	if c.Image == "" {
		return errors.New("validate sidecar image: it is empty")
	}
	if c.GatewayImage == "" {
		return errors.New("validate gateway image: it is empty")
	}
	if c.ClusterDomain == "" {
		return errors.New("validate cluster domain: it is empty")
	}
	if c.User == 0 || c.User < UnsetUser {
		return fmt.Errorf("validate sidecar user: %d is neither above 0 nor %d (left to the platform)", c.User, UnsetUser)
	}
	if err := c.validateDatapath(); err != nil {
		return err
	}
	u, err := url.Parse(c.CoordinatorURL)
	if err != nil {
		return fmt.Errorf("validate coordinator URL: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("validate coordinator URL: %q is not https://HOST", c.CoordinatorURL)
	}
	return nil
}

func (c Config) validateDatapath() error {
	switch c.PodSecurityDefault {
	case Privileged, Baseline, Restricted:
	default:
		return fmt.Errorf("validate default Pod Security level: %q is not %s, %s or %s", c.PodSecurityDefault, Privileged, Baseline, Restricted)
	}
	switch c.UserNamespaces {
	case UserNamespacesAuto, UserNamespacesAlways, UserNamespacesNever:
	default:
		return fmt.Errorf("validate user namespaces: %q is not %s, %s or %s", c.UserNamespaces, UserNamespacesAuto, UserNamespacesAlways, UserNamespacesNever)
	}
	if c.TUNForAuto && c.TUNResource == "" {
		return errors.New("validate TUN resource: Auto is to ask for it, but it is empty")
	}
	domain, name, ok := strings.Cut(string(c.TUNResource), "/")
	if c.TUNResource != "" && (!ok || len(validation.IsDNS1123Subdomain(domain)) > 0 || len(validation.IsQualifiedName(string(c.TUNResource))) > 0) {
		return fmt.Errorf("validate TUN resource: %q is not the name of an extended resource, DOMAIN/NAME, for example devices.example.com/tun", c.TUNResource)
	}
	if name == "" || domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") {
		return nil
	}
	return fmt.Errorf("validate TUN resource: %s is Kubernetes' own domain, extended resources have another", domain)
}
