package cli

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// presharedKeys are the entries of one Secret, each written and removed by itself: others write theirs meanwhile.
type presharedKeys struct {
	*namespace
	tunnel string
}

func (p presharedKeys) secret() string { return tenant.PresharedKeys(p.tunnel) }

// add makes an entry. One that is there already is somebody's and stays.
func (p presharedKeys) add(ctx context.Context, entry string, k key.Preshared) error {
	const attempts = 5 // against others who write the Secret at the same time
	var err error
	for range attempts {
		if err = p.try(ctx, entry, k); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("add preshared key %s to Secret %s: %w", entry, p.secret(), err)
	}
	return nil
}

func (p presharedKeys) try(ctx context.Context, entry string, k key.Preshared) error {
	value := []byte(k.Reveal())
	var s corev1.Secret
	err := p.client.Get(ctx, p.key(p.secret()), &s)
	if apierrors.IsNotFound(err) {
		return p.client.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: p.secret(), Labels: map[string]string{
				v1alpha1.LabelTunnel: p.tunnel, "app.kubernetes.io/managed-by": "kubectl-tenantwire"}},
			Data: map[string][]byte{entry: value},
		})
	}
	if err != nil {
		return err
	}
	if _, taken := s.Data[entry]; taken {
		return fmt.Errorf("it has an entry %s already: choose another name for the peer, or remove the entry if no peer needs it any more", entry)
	}
	return p.patch(ctx, map[string]any{
		"metadata": map[string]any{"resourceVersion": s.ResourceVersion}, // what was read still holds
		"data":     map[string]any{entry: value},
	})
}

// takeBack removes an entry that add may have made, and nobody else's.
func (p presharedKeys) takeBack(ctx context.Context, entry string, k key.Preshared) error {
	var s corev1.Secret
	if err := p.client.Get(ctx, p.key(p.secret()), &s); err != nil {
		return client.IgnoreNotFound(err)
	}
	if made, err := key.ParsePreshared(string(s.Data[entry])); err != nil || !made.Equal(k) {
		return nil
	}
	return p.remove(ctx, entry)
}

// remove removes an entry, which need not be there.
func (p presharedKeys) remove(ctx context.Context, entry string) error {
	err := p.patch(ctx, map[string]any{"data": map[string]any{entry: nil}})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove preshared key %s from Secret %s: %w", entry, p.secret(), err)
	}
	return nil
}

func (p presharedKeys) patch(ctx context.Context, change map[string]any) error {
	b, err := json.Marshal(change)
	if err != nil {
		return err
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: p.secret()}}
	return p.client.Patch(ctx, s, client.RawPatch(types.MergePatchType, b))
}
