package desired

import (
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

const (
	dataVolume, dataDir       = "data", "/data"
	catalogVolume, catalogDir = "catalog", "/catalog"

	// gracePeriod is longer than the server's own: 5 s of accepting after the
	// end was announced, then 45 s for bodies that have begun.
	gracePeriod = 60
	// minReadySeconds is how long a pod is ready before it counts as available:
	// kube-proxy sends it requests about a second after it is ready.
	minReadySeconds = 2
	// user is the unprivileged user of the image.
	user = 65532
)

// defaultSizeLimit of the volume, as in the CRD.
var defaultSizeLimit = resource.MustParse("2Gi")

// Deployment runs the pods. Nothing in it depends on the catalog: plugins that
// come and go restart nothing.
func Deployment(p Parameters) *appsv1ac.DeploymentApplyConfiguration {
	spec := p.Server.Spec
	deployment := appsv1ac.Deployment(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(p.Server.Name))).
			WithRevisionHistoryLimit(3).
			// A new pod is there before an old one goes.
			WithMinReadySeconds(minReadySeconds).
			WithStrategy(appsv1ac.DeploymentStrategy().
				WithType(appsv1.RollingUpdateDeploymentStrategyType).
				WithRollingUpdate(appsv1ac.RollingUpdateDeployment().
					WithMaxSurge(intstr.FromInt32(1)).WithMaxUnavailable(intstr.FromInt32(0)))).
			WithTemplate(podTemplate(p)))
	if spec.Replicas != nil {
		deployment.Spec.WithReplicas(*spec.Replicas)
	}
	return deployment
}

func podTemplate(p Parameters) *corev1ac.PodTemplateSpecApplyConfiguration {
	labels := maps.Clone(p.Server.Spec.PodLabels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["sidecar.istio.io/inject"] = "false" // newer Istio reads the label, older the annotation
	maps.Copy(labels, Labels(p.Server.Name))
	annotations := map[string]string{"sidecar.istio.io/inject": "false"}
	maps.Copy(annotations, p.Server.Spec.PodAnnotations)
	return corev1ac.PodTemplateSpec().
		WithLabels(labels).
		WithAnnotations(annotations).
		WithSpec(podSpec(p))
}

func podSpec(p Parameters) *corev1ac.PodSpecApplyConfiguration {
	spec := corev1ac.PodSpec().
		WithServiceAccountName(p.Server.Name).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(gracePeriod).
		WithSecurityContext(corev1ac.PodSecurityContext().
			WithRunAsNonRoot(true).WithRunAsUser(user).WithRunAsGroup(user).WithFSGroup(user).
			WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithContainers(container(p)).
		WithVolumes(
			corev1ac.Volume().WithName(dataVolume).WithEmptyDir(
				corev1ac.EmptyDirVolumeSource().WithSizeLimit(sizeLimit(p.Server))),
			// Optional: a pod whose catalog is not there yet asks the operator.
			corev1ac.Volume().WithName(catalogVolume).WithConfigMap(
				corev1ac.ConfigMapVolumeSource().WithName(CatalogName(p.Server.Name)).WithOptional(true)),
		)
	return schedule(spec, p)
}

// schedule adds what says where the pods run and how they are pulled.
func schedule(spec *corev1ac.PodSpecApplyConfiguration, p Parameters) *corev1ac.PodSpecApplyConfiguration {
	server := p.Server.Spec
	for _, secret := range server.Server.ImagePullSecrets {
		spec.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(secret.Name))
	}
	if len(server.Server.ImagePullSecrets) == 0 {
		for _, secret := range p.ImagePullSecrets {
			spec.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(secret))
		}
	}
	if len(server.NodeSelector) > 0 {
		spec.WithNodeSelector(server.NodeSelector)
	}
	for _, t := range server.Tolerations {
		spec.WithTolerations(convert[corev1ac.TolerationApplyConfiguration](t))
	}
	for _, c := range server.TopologySpreadConstraints {
		spec.WithTopologySpreadConstraints(convert[corev1ac.TopologySpreadConstraintApplyConfiguration](c))
	}
	if server.PriorityClassName != "" {
		spec.WithPriorityClassName(server.PriorityClassName)
	}
	if server.Affinity != nil {
		return spec.WithAffinity(convert[corev1ac.AffinityApplyConfiguration](server.Affinity))
	}
	// Preferred, so that two replicas also fit on one node.
	return spec.WithAffinity(corev1ac.Affinity().WithPodAntiAffinity(corev1ac.PodAntiAffinity().
		WithPreferredDuringSchedulingIgnoredDuringExecution(corev1ac.WeightedPodAffinityTerm().WithWeight(100).
			WithPodAffinityTerm(corev1ac.PodAffinityTerm().
				WithTopologyKey(corev1.LabelHostname).
				WithLabelSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(p.Server.Name)))))))
}

func container(p Parameters) *corev1ac.ContainerApplyConfiguration {
	image, policy := p.Server.Spec.Server.Image, p.Server.Spec.Server.ImagePullPolicy
	if image == "" {
		image = p.Image
	}
	if policy == "" {
		policy = corev1.PullIfNotPresent
	}
	limit := sizeLimit(p.Server)
	return corev1ac.Container().
		WithName(ContainerName).
		WithImage(image).
		WithImagePullPolicy(policy).
		WithCommand("/plugin-server").
		// What follows "--" runs as a child of the server, not as a container
		// of its own: a container that restarts, a native sidecar too, makes its pod
		// unready, and all replicas read the same catalog.
		WithArgs("serve", "--data-dir="+dataDir,
			fmt.Sprintf("--listen=:%d", HTTPPort), fmt.Sprintf("--ops-listen=:%d", OpsPort), "--",
			"sync", "--data-dir="+dataDir, "--catalog="+catalogDir+"/"+CatalogKey,
			"--operator-url="+p.ArtifactURL, "--server="+p.Server.Namespace+"/"+p.Server.Name,
			fmt.Sprintf("--size-limit=%d", limit.Value())).
		WithEnv(corev1ac.EnvVar().WithName("POD_NAME").WithValueFrom(corev1ac.EnvVarSource().
			WithFieldRef(corev1ac.ObjectFieldSelector().WithAPIVersion("v1").WithFieldPath("metadata.name")))).
		WithPorts(
			corev1ac.ContainerPort().WithName("http").WithContainerPort(HTTPPort).WithProtocol(corev1.ProtocolTCP),
			corev1ac.ContainerPort().WithName("ops").WithContainerPort(OpsPort).WithProtocol(corev1.ProtocolTCP),
		).
		WithResources(resources(p.Server)).
		WithStartupProbe(probe("/healthz", 1, 60)).
		WithLivenessProbe(probe("/healthz", 10, 6)).
		WithReadinessProbe(probe("/readyz", 2, 3)).
		WithSecurityContext(corev1ac.SecurityContext().
			WithAllowPrivilegeEscalation(false).WithReadOnlyRootFilesystem(true).WithRunAsNonRoot(true).
			WithCapabilities(corev1ac.Capabilities().WithDrop("ALL"))).
		WithVolumeMounts(
			corev1ac.VolumeMount().WithName(dataVolume).WithMountPath(dataDir),
			corev1ac.VolumeMount().WithName(catalogVolume).WithMountPath(catalogDir).WithReadOnly(true),
		)
}

func probe(path string, period, failures int32) *corev1ac.ProbeApplyConfiguration {
	return corev1ac.Probe().
		WithHTTPGet(corev1ac.HTTPGetAction().WithPath(path).WithPort(intstr.FromInt32(OpsPort))).
		WithPeriodSeconds(period).WithTimeoutSeconds(5).WithFailureThreshold(failures)
}

func resources(server *v1alpha1.PluginServer) *corev1ac.ResourceRequirementsApplyConfiguration {
	if server.Spec.Resources != nil {
		return corev1ac.ResourceRequirements().
			WithRequests(server.Spec.Resources.Requests).WithLimits(server.Spec.Resources.Limits)
	}
	return corev1ac.ResourceRequirements().
		WithRequests(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
		}).
		WithLimits(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("256Mi"),
		})
}

func sizeLimit(server *v1alpha1.PluginServer) resource.Quantity {
	if server.Spec.Storage.SizeLimit != nil {
		return *server.Spec.Storage.SizeLimit
	}
	return defaultSizeLimit
}
