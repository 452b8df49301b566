package controllers

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
)

// caKey is the key of a certSecretRef's certificates.
const caKey = "ca.crt"

// observeAccess reads what the source needs to reach its registries. Secrets
// come from the source's own namespace only.
func (r *PluginSourceReconciler) observeAccess(ctx context.Context, src *v1alpha1.PluginSource) (fetch.Access, *failure.Error) {
	access := fetch.Access{PlainHTTP: src.Spec.Insecure}
	if src.Spec.Signature != nil {
		access.PublicKeys = []byte(src.Spec.Signature.PublicKeys)
	}
	if ref := src.Spec.SecretRef; ref != nil {
		secret, err := r.secret(ctx, src.Namespace, ref.Name, "secretRef")
		if err != nil {
			return access, err
		}
		if access.DockerConfig, err = dockerConfig(secret); err != nil {
			return access, err
		}
	}
	if ref := src.Spec.CertSecretRef; ref != nil {
		secret, err := r.secret(ctx, src.Namespace, ref.Name, "certSecretRef")
		if err != nil {
			return access, err
		}
		access.CA, access.Certificate, access.Key = secret.Data[caKey], secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
		switch {
		case (len(access.Certificate) == 0) != (len(access.Key) == 0):
			return access, failure.New(failure.Waiting, failure.InvalidSecret, nil,
				"Secret %s/%s, named in certSecretRef, has only one of %s and %s: a client certificate needs both", src.Namespace, ref.Name, corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
		case len(access.CA) == 0 && len(access.Key) == 0:
			return access, failure.New(failure.Waiting, failure.InvalidSecret, nil,
				"Secret %s/%s, named in certSecretRef, has no key %s: put the PEM certificates of the registry's CA there", src.Namespace, ref.Name, caKey)
		}
	}
	return access, nil
}

func (r *PluginSourceReconciler) secret(ctx context.Context, namespace, name, field string) (*corev1.Secret, *failure.Error) {
	var secret corev1.Secret
	err := r.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, failure.New(failure.Waiting, failure.SecretNotFound, err,
			"Secret %s/%s, named in %s, does not exist: create it, or correct the name", namespace, name, field)
	case apierrors.IsForbidden(err):
		return nil, failure.New(failure.Waiting, failure.InvalidSecret, err,
			"Secret %s/%s, named in %s, may not be read by the operator: check its Role in namespace %s", namespace, name, field, namespace)
	case err != nil:
		return nil, failure.New(failure.Transient, failure.InvalidSecret, err,
			"Secret %s/%s, named in %s, cannot be read: %v", namespace, name, field, err)
	}
	return &secret, nil
}

func dockerConfig(secret *corev1.Secret) ([]byte, *failure.Error) {
	where := fmt.Sprintf("Secret %s/%s, named in secretRef,", secret.Namespace, secret.Name)
	if secret.Type != corev1.SecretTypeDockerConfigJson {
		return nil, failure.New(failure.Waiting, failure.InvalidSecret, nil,
			"%s has type %s: it must be %s (kubectl create secret docker-registry makes one)", where, secret.Type, corev1.SecretTypeDockerConfigJson)
	}
	config := secret.Data[corev1.DockerConfigJsonKey]
	if !json.Valid(config) { // the parser's error could quote the content
		return nil, failure.New(failure.Waiting, failure.InvalidSecret, nil,
			"%s has no valid JSON under %s", where, corev1.DockerConfigJsonKey)
	}
	return config, nil
}
