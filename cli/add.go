package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func (cs *commands) add() *cobra.Command {
	var f addFlags
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a peer, and print the config that its device needs",
		Long: `Makes a TunnelPeer, waits until it is accepted and has its addresses, and prints the config for its device.

The private key is made here and is in the config alone: whoever has the config is the peer, and there is no
second copy. When anything fails, the peer is taken back, unless --keep says otherwise.`,
		Example: `  # A laptop: into a file that only you may read, for wg-quick
  kubectl tenantwire peer add laptop --file laptop.conf

  # A phone: a QR code on the terminal, for 30 days
  kubectl tenantwire peer add phone -o qr --expires 30d

  # An office's router, with what is behind it
  kubectl tenantwire peer add office --tunnel net --route 192.168.10.0/24 --preshared-key > office.conf

  # A device whose private key stays on it
  kubectl tenantwire peer add server --public-key "$(wg pubkey < private)" --endpoint vpn.example.com:51820`,
		Args: exactly("NAME"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			a, err := f.parse(args[0], time.Now())
			if err != nil {
				return err
			}
			return cs.addPeer(c.Context(), a)
		},
	}
	f.register(c.Flags())
	cs.complete(c, "tunnel", cs.tunnelNames)
	cs.complete(c, "output", func(context.Context) []string {
		return []string{string(formatConfig), string(formatQR), string(formatPNG)}
	})
	return c
}

func (cs *commands) addPeer(ctx context.Context, a *addition) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	t, err := n.tunnel(ctx, a.tunnel)
	if err != nil {
		return err
	}
	if t.Spec.Gateway == nil {
		return fmt.Errorf(`tunnel %s has no gateway that a peer could dial: set spec.gateway, for example
  kubectl -n %s patch tenanttunnel %s --type merge -p '{"spec": {"gateway": {"service": {"type": "LoadBalancer"}}}}'`, t.Name, n.name, t.Name)
	}
	if e := t.Spec.Gateway.Endpoints; a.endpoint == "" && len(e) > 0 {
		a.endpoint = e[0]
	}
	if a.endpoint == "" { // what must not be asked is said before anything is made
		if _, err := n.entry(ctx, t.Name); err != nil {
			return err
		}
	}
	to, err := open(a.file, a.force, cs.Out)
	if err != nil {
		return err
	}
	defer to.discard()
	a.tunnel = t.Name
	j := &joining{commands: cs, addition: a, in: n}
	if a.public.IsZero() {
		j.private = key.NewPrivate()
		a.public = j.private.Public()
	}
	if a.preshared {
		j.psk = key.NewPreshared()
	}
	if err := j.join(ctx, to); err != nil {
		return j.undo(ctx, err)
	}
	return nil
}

// joining is a peer on its way into a tunnel, with its tunnel and its public key known.
type joining struct {
	*commands
	*addition
	in      *namespace
	private key.Private // zero: the user has it
	psk     key.Preshared

	madeEntry, madePeer bool // or perhaps
}

func (j *joining) join(ctx context.Context, to *destination) error {
	if err := j.create(ctx); err != nil {
		return err
	}
	o, err := j.wait(ctx)
	if err != nil {
		return err
	}
	b, err := j.format.render(o.config)
	if err == nil {
		err = to.write(b)
	}
	if err != nil {
		return fmt.Errorf("write the config: %w", err)
	}
	for _, note := range o.notes {
		j.say("%s", note)
	}
	return nil
}

// create makes the preshared key's entry before the peer that refers to it, and that only where the peer could be made.
func (j *joining) create(ctx context.Context) error {
	if j.preshared {
		if err := j.in.client.Create(ctx, j.peer(), client.DryRunAll); err != nil {
			return j.notCreated(err)
		}
		j.madeEntry = true
		if err := j.keys().add(ctx, j.name, j.psk); err != nil {
			return err
		}
	}
	err := j.in.client.Create(ctx, j.peer())
	j.madePeer = err == nil || unanswered(err)
	return j.notCreated(err)
}

func (j *joining) keys() presharedKeys { return presharedKeys{j.in, j.tunnel} }

func (j *joining) notCreated(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("namespace %s has a peer %s already: choose another name, or remove it first (kubectl tenantwire peer rm %s)", j.in.name, j.name, j.name)
	}
	return fmt.Errorf("create peer %s: %w", j.name, err)
}

func (j *joining) peer() *v1alpha1.TunnelPeer {
	p := &v1alpha1.TunnelPeer{
		ObjectMeta: metav1.ObjectMeta{Namespace: j.in.name, Name: j.name},
		Spec:       v1alpha1.TunnelPeerSpec{Tunnel: j.tunnel, PublicKey: j.public.String()},
	}
	for _, a := range j.addresses {
		p.Spec.Addresses = append(p.Spec.Addresses, a.String())
	}
	for _, r := range j.routes {
		p.Spec.Routes = append(p.Spec.Routes, r.String())
	}
	if !j.expires.IsZero() {
		p.Spec.ExpiresAt = &metav1.Time{Time: j.expires}
	}
	if j.preshared {
		p.Spec.PresharedKey = &v1alpha1.PresharedKey{SecretKey: j.name}
	}
	return p
}

// undo takes back what was made, also when ctx is over, and says so beside why.
func (j *joining) undo(ctx context.Context, why error) error {
	if !j.madePeer && !j.madeEntry {
		return why
	}
	if j.keep && j.madePeer {
		return fmt.Errorf("%w\npeer %s is kept, as --keep says", why, j.name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	var errs []error
	if j.madePeer {
		errs = append(errs, j.deletePeer(ctx))
	}
	if j.madeEntry {
		errs = append(errs, j.keys().takeBack(ctx, j.name, j.psk))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\nand not all of it could be taken back: %w", why, err)
	}
	return fmt.Errorf("%w\nnothing of peer %s is left in the cluster", why, j.name)
}

// deletePeer deletes the very object that was made here, which its key tells.
func (j *joining) deletePeer(ctx context.Context) error {
	var p v1alpha1.TunnelPeer
	err := j.in.client.Get(ctx, j.in.key(j.name), &p)
	if err == nil && p.Spec.PublicKey == j.public.String() {
		err = j.in.client.Delete(ctx, &p, client.Preconditions{UID: &p.UID})
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete peer %s: %w", j.name, err)
	}
	return nil
}
