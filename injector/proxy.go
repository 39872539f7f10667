package injector

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const noProxy = "NO_PROXY"

// proxyEnv are the variables that tell applications of the tunnel's proxies. NO_PROXY keeps from them what does not lead through the
// tunnel (the pod itself, the API server, Services that are not carried) and what has a listener of its own: the carried names.
func (c *candidate) proxyEnv() []corev1.EnvVar {
	var env []corev1.EnvVar
	for _, p := range c.tunnel.Spec.Proxies {
		if p.Env != v1alpha1.ProxyEnvSet {
			continue
		}
		switch p.Protocol {
		case v1alpha1.SOCKS5:
			// socks5h: the name goes to the proxy unresolved.
			env = append(env, corev1.EnvVar{Name: "ALL_PROXY", Value: fmt.Sprintf("socks5h://127.0.0.1:%d", p.Port)})
		case v1alpha1.HTTPConnect:
			env = append(env, corev1.EnvVar{Name: "HTTPS_PROXY", Value: fmt.Sprintf("http://127.0.0.1:%d", p.Port)})
		}
	}
	if len(env) == 0 {
		return nil
	}
	// Clients inside the cluster dial the API server by the address in this variable; the kubelet expands it.
	direct := []string{"localhost", "127.0.0.0/8", "127.0.0.1", "::1", "$(KUBERNETES_SERVICE_HOST)",
		"kubernetes.default.svc", ".svc", "." + c.Config.ClusterDomain}
	for _, n := range c.names {
		direct = append(direct, n.Hostnames...)
	}
	return append(env, corev1.EnvVar{Name: noProxy, Value: strings.Join(direct, ",")})
}

// missingEnv is what of want a container does not set, in either spelling. NO_PROXY goes only along with a proxy of ours.
func missingEnv(want []corev1.EnvVar, has func(name string) bool) []corev1.EnvVar {
	var out []corev1.EnvVar
	for _, e := range want {
		if has(e.Name) || has(strings.ToLower(e.Name)) || e.Name == noProxy && len(out) == 0 {
			continue
		}
		out = append(out, e)
	}
	return out
}
