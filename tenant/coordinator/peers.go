package coordinator

import (
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func validatePeerReport(rep wire.PeerReport) error {
	if len(rep.Peers) > wire.MaxPeerStates {
		return refuse(http.StatusBadRequest, "peers: %d, want at most %d", len(rep.Peers), wire.MaxPeerStates)
	}
	return nil
}

// peers takes what a gateway says of its tunnel's outside peers.
func (s *Server) peers(w http.ResponseWriter, r *http.Request, id Identity) error {
	var rep wire.PeerReport
	if err := decode(w, r, &rep); err != nil {
		return err
	}
	if err := validatePeerReport(rep); err != nil {
		return err
	}
	m, ok, err := s.Store.Member(r.Context(), id)
	if err != nil {
		return err
	}
	if !ok || m.Object.Spec.Role != v1alpha1.RoleGateway {
		return refuse(http.StatusForbidden, "pod %s is no gateway", id.Pod)
	}
	st, ok, err := s.Store.State(r.Context(), types.NamespacedName{Namespace: m.Object.Namespace, Name: m.Object.Spec.Tunnel})
	if err != nil {
		return err
	}
	if !ok {
		return refuse(http.StatusNotFound, "tunnel %s/%s does not exist", m.Object.Namespace, m.Object.Spec.Tunnel)
	}
	decisions := tenant.DecidePeers(st.Tunnel, st.Peers, st.Members, st.Now)
	byKey := make(map[string]*v1alpha1.TunnelPeer, len(st.Peers))
	for i := range st.Peers {
		if p := &st.Peers[i]; decisions[p.Name].Accepted() { // of two with one key that is the one
			byKey[p.Spec.PublicKey] = p
		}
	}
	for _, said := range rep.Peers {
		p := byKey[said.PublicKey.String()]
		if p == nil {
			continue // deleted since
		}
		c := connectedCondition(p, said)
		if err := s.Store.WritePeer(r.Context(), p, c, said.LastHandshake); err != nil {
			return err
		}
		if old := meta.FindStatusCondition(p.Status.Conditions, c.Type); old == nil || old.Reason != c.Reason {
			s.tellPeer(p, said, c)
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tellPeer makes an Event of what became of a peer, if it is kept out, or is to be dialled and is silent.
func (s *Server) tellPeer(p *v1alpha1.TunnelPeer, said wire.PeerState, c metav1.Condition) {
	kind := corev1.EventTypeWarning
	switch {
	case said.KeptOut != "":
	case c.Reason == string(tenant.ReasonIdle) && p.Spec.Endpoint != "":
		kind = corev1.EventTypeNormal // it may have nothing to say
	default:
		return
	}
	s.event(corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TunnelPeer", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		kind, tenant.Reason(c.Reason), "Connect", c.Message)
}

// connectedCondition is Unknown for a peer that was not heard of lately: one that has nothing to say is as silent as one that is gone.
func connectedCondition(p *v1alpha1.TunnelPeer, said wire.PeerState) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionUnknown, Reason: string(tenant.ReasonIdle),
		Message: "no handshake in the last three minutes" + at(p), ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(time.Now())}
	secret := tenant.PresharedKeys(p.Spec.Tunnel)
	switch {
	case said.Connected:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, string(tenant.ReasonHandshake), ""
	case said.KeptOut != "" && p.Spec.PresharedKey == nil:
		// removed since
	case said.KeptOut == wire.NoPresharedKey:
		c.Status, c.Reason = metav1.ConditionFalse, string(tenant.ReasonPresharedKeyMissing)
		c.Message = fmt.Sprintf("spec.presharedKey: the Secret %s has no entry %q, or the gateway does not see it yet", secret, p.Spec.PresharedKey.SecretKey)
	case said.KeptOut != "":
		c.Status, c.Reason = metav1.ConditionFalse, string(tenant.ReasonPresharedKeyInvalid)
		c.Message = fmt.Sprintf("spec.presharedKey: entry %q of the Secret %s is not 32 bytes in base64 as wg genpsk prints them (44 characters)", p.Spec.PresharedKey.SecretKey, secret)
	}
	if old := meta.FindStatusCondition(p.Status.Conditions, c.Type); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}

// at says where a peer is dialled.
func at(p *v1alpha1.TunnelPeer) string {
	if p.Spec.Endpoint == "" {
		return ""
	}
	return " with spec.endpoint " + p.Spec.Endpoint
}
