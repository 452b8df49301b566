//go:build envtest

package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers"
)

func adminClient(t *testing.T) client.Client {
	t.Helper()
	c, err := client.New(apiServer, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// validation is a spec, and part of the refusal; none where it is valid.
type validation struct{ spec, refusal string }

// validate creates objects with these specs, without keeping them.
func validate(t *testing.T, kind string, cases map[string]validation) {
	t.Helper()
	c := adminClient(t)
	for reason, test := range cases {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			object := &unstructured.Unstructured{}
			text := fmt.Sprintf("apiVersion: plugins.higress.io/v1alpha1\nkind: %s\nmetadata: {name: a, namespace: default}\nspec: %s", kind, test.spec)
			if err := yaml.UnmarshalStrict([]byte(text), &object.Object); err != nil {
				t.Fatal(err)
			}
			checkRefusal(t, c.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)), test.refusal)
		})
	}
}

func checkRefusal(t *testing.T, err error, refusal string) {
	t.Helper()
	switch {
	case refusal == "" && err != nil:
		t.Errorf("refused: %v", err)
	case refusal != "" && err == nil:
		t.Error("accepted")
	case refusal != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), refusal)):
		t.Errorf("refused otherwise than by %q: %v", refusal, err)
	}
}

func plugins(items ...string) string {
	return "{plugins: [" + strings.Join(items, ", ") + "]}"
}

func named(name string) string {
	return plugins(fmt.Sprintf("{name: %q, version: '1', url: 'oci://r.example/a:1'}", name))
}

func versioned(version string) string {
	return plugins(fmt.Sprintf("{name: a, version: %q, url: 'oci://r.example/a:1'}", version))
}

func at(url string) string { return plugins(fmt.Sprintf("{name: a, version: '1', url: %q}", url)) }

func TestPluginSourceValidation(t *testing.T) {
	t.Parallel()
	const one = "{name: a, version: '1', url: 'oci://r.example/a:1'}"
	name, version, url := "spec.plugins[0].name", "spec.plugins[0].version", "spec.plugins[0].url"
	digest := strings.Repeat("a", 64)
	validate(t, "PluginSource", map[string]validation{
		"an empty source is valid":                  {"{}", ""},
		"a plugin":                                  {plugins(one), ""},
		"a name may have dots and lines":            {named("my_auth-2.x"), ""},
		"a name of 63 characters":                   {named(strings.Repeat("a", 63)), ""},
		"a name of 64 characters":                   {named(strings.Repeat("a", 64)), name},
		"a name of 300 characters":                  {named(strings.Repeat("a", 300)), name},
		"a name that leads elsewhere":               {named(".."), name},
		"a name with a path":                        {named("a/b"), name},
		"a name that begins with a dot":             {named(".a"), name},
		"a name in upper case":                      {named("Key-Auth"), name},
		"a name in unicode":                         {named("认证"), name},
		"a name in letters that look alike":         {named("kеy"), name}, //nolint:gosmopolitan // a Cyrillic е
		"an empty name":                             {named(""), name},
		"a name with a line break":                  {named("a\nb"), name},
		"no name":                                   {plugins("{version: '1', url: 'oci://r.example/a:1'}"), name},
		"a version with a build":                    {versioned("1.0.0-rc.1+build.5"), ""},
		"a version of 128 characters":               {versioned(strings.Repeat("1", 128)), ""},
		"a version of 129 characters":               {versioned(strings.Repeat("1", 129)), version},
		"a version that leads elsewhere":            {versioned(".."), version},
		"a version with a path":                     {versioned("1/2"), version},
		"a version in unicode":                      {versioned("１"), version},
		"an empty version":                          {versioned(""), version},
		"no version":                                {plugins("{name: a, url: 'oci://r.example/a:1'}"), version},
		"the same name and version twice":           {plugins(one, one), "Duplicate"},
		"two versions of one plugin":                {plugins(one, "{name: a, version: '2', url: 'oci://r.example/a:1'}"), ""},
		"neither url nor registry":                  {plugins("{name: a, version: '1'}"), "every plugin needs a url or configMaps, or the source a registry"},
		"a registry instead of a url":               {"{registry: r.example/higress, plugins: [{name: a, version: '1'}]}", ""},
		"a registry with a port":                    {"{registry: 'r.example:5000/a/b'}", ""},
		"a registry with a scheme":                  {"{registry: 'https://r.example'}", "spec.registry"},
		"a registry with a slash at its end":        {"{registry: 'r.example/'}", "spec.registry"},
		"a registry with a login":                   {"{registry: 'me:pw@r.example'}", "spec.registry"},
		"an empty registry":                         {"{registry: ''}", "spec.registry"},
		"a registry of 513 characters":              {"{registry: " + strings.Repeat("a", 513) + "}", "spec.registry"},
		"a url by digest":                           {at("oci://r.example/a@sha256:" + digest), ""},
		"a url of another scheme":                   {at("file:///etc/passwd"), url},
		"a url without scheme":                      {at("r.example/a:1"), url},
		"a url with a query":                        {at("oci://r.example/a:1?x"), url},
		"a url with a space":                        {at("oci://r.example/a :1"), url},
		"a url of 1025 characters":                  {at("oci://" + strings.Repeat("a", 1019)), url},
		"a sha256":                                  {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', sha256: " + digest + "}"), ""},
		"a sha256 in upper case":                    {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', sha256: " + strings.Repeat("A", 64) + "}"), "sha256"},
		"a sha256 that is short":                    {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', sha256: aa}"), "sha256"},
		"a description of two lines":                {plugins(`{name: a, version: '1', url: 'oci://r.example/a:1', description: "a\nb"}`), "description"},
		"the shortest interval":                     {"{interval: 10s}", ""},
		"too short an interval":                     {"{interval: 9s}", "interval must be between 10s and 24h"},
		"the longest interval":                      {"{interval: 24h}", ""},
		"too long an interval":                      {"{interval: 24h1s}", "interval must be between 10s and 24h"},
		"an interval that is none":                  {"{interval: soon}", "spec.interval"},
		"a negative interval":                       {"{interval: -10m}", "interval must be between 10s and 24h"},
		"too high a priority":                       {"{priority: 1001}", "spec.priority"},
		"a Secret without a name":                   {"{secretRef: {name: ''}}", "spec.secretRef.name"},
		"more plugins than a source may have: 1001": {many(1001), "spec.plugins"},
		"a file by https":                           {at("https://files.example:8443/dir/a.wasm?x=y"), ""},
		"a file by http with its hash":              {plugins("{name: a, version: '1', url: 'http://r.example/a.wasm', sha256: " + digest + "}"), ""},
		"a file by http without its hash":           {at("http://r.example/a.wasm"), "a plugin from http:// needs its sha256"},
		"a file with a fragment":                    {at("https://r.example/a.wasm#x"), url},
		"ConfigMaps":                                {plugins("{name: a, version: '1', configMaps: [a-0, a-1], sha256: " + digest + "}"), ""},
		"ConfigMaps without a hash":                 {plugins("{name: a, version: '1', configMaps: [a-0]}"), "a plugin from configMaps needs its sha256"},
		"ConfigMaps and a url":                      {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', configMaps: [a-0], sha256: " + digest + "}"), "a url or configMaps, not both"},
		"no ConfigMap at all":                       {plugins("{name: a, version: '1', configMaps: [], sha256: " + digest + "}"), "configMaps"},
		"nine ConfigMaps":                           {plugins("{name: a, version: '1', configMaps: [a, b, c, d, e, f, g, h, i], sha256: " + digest + "}"), "configMaps"},
		"aliases":                                   {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', aliases: [{version: '2'}, {name: b}, {name: b, version: '3'}]}"), ""},
		"an alias of nothing":                       {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', aliases: [{}]}"), "an alias needs a name, a version or both"},
		"an alias that leads elsewhere":             {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', aliases: [{name: ..}]}"), "aliases[0].name"},
		"seventeen aliases":                         {plugins("{name: a, version: '1', url: 'oci://r.example/a:1', aliases: [" + strings.Repeat("{version: '2'},", 17) + "]}"), "aliases"},
		"official plugins":                          {"{official: {higressVersions: ['2.2.3', '2.2.4']}}", ""},
		"official plugins of a release candidate":   {"{official: {higressVersions: ['2.3.0-rc.1']}}", ""},
		"official plugins of no release":            {"{official: {higressVersions: []}}", "higressVersions"},
		"official plugins of something else":        {"{official: {higressVersions: [latest]}}", "higressVersions"},
		"one release twice":                         {"{official: {higressVersions: ['2.2.4', '2.2.4']}}", "Duplicate"},
		"33 releases":                               {"{official: {higressVersions: [" + releases(33) + "]}}", "higressVersions"},
		"a table":                                   {"{official: {higressVersions: ['2.2.4'], tableRef: {name: t, key: t.csv}}}", ""},
		"a table without a key":                     {"{official: {higressVersions: ['2.2.4'], tableRef: {name: t}}}", "key"},
		"a list":                                    {"{pluginsFrom: [{configMapKeyRef: {name: l, key: plugins.properties}, aliasVersions: []}]}", ""},
		"a list from nowhere":                       {"{pluginsFrom: [{}]}", "exactly one of configMapKeyRef, url and image"},
		"a list from two places":                    {"{pluginsFrom: [{url: 'oci://r.example/l:1', image: 'oci://r.example/i:1'}]}", "exactly one of configMapKeyRef, url and image"},
		"lists from elsewhere":                      {"{pluginsFrom: [{url: 'oci://r.example/l:1', sha256: " + digest + "}, {url: 'https://r.example/l'}, {image: 'oci://r.example/i:1'}]}", ""},
		"a list by http with its hash":              {"{pluginsFrom: [{url: 'http://r.example/l', sha256: " + digest + "}]}", ""},
		"a list by http without its hash":           {"{pluginsFrom: [{url: 'http://r.example/l'}]}", "a list from http:// needs its sha256"},
		"an image with a hash":                      {"{pluginsFrom: [{image: 'oci://r.example/i:1', sha256: " + digest + "}]}", "sha256 is for a list with a url"},
		"an image without scheme":                   {"{pluginsFrom: [{image: 'r.example/i:1'}]}", "image"},
		"a list of another scheme":                  {"{pluginsFrom: [{url: 'file:///etc/passwd'}]}", "url"},
		"a list with a key that is a path":          {"{pluginsFrom: [{configMapKeyRef: {name: l, key: a/b}}]}", "key"},
		"nine lists":                                {"{pluginsFrom: [" + strings.Repeat("{configMapKeyRef: {name: l, key: k}},", 9) + "]}", "pluginsFrom"},
		"versions as which everything is served":    {"{aliasVersions: ['1.0.0', latest]}", ""},
		"such a version that leads elsewhere":       {"{aliasVersions: ['../1']}", "aliasVersions"},
		"five such versions":                        {"{aliasVersions: [a, b, c, d, e]}", "aliasVersions"},
		"a signature":                               {`{signature: {publicKeys: "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"}}`, ""},
		"a signature without keys":                  {"{signature: {}}", "publicKeys"},
		"a signature with a private key":            {`{signature: {publicKeys: "-----BEGIN EC PRIVATE KEY-----"}}`, "publicKeys"},
		"gateways":                                  {"{gateway: {profile: higress-2.1, policy: Block, allowedImports: [env.x]}}", ""},
		"gateways of an unknown release":            {"{gateway: {profile: envoy}}", "profile"},
		"an unknown policy of imports":              {"{gateway: {policy: Pray}}", "policy"},
		"an import without its module":              {"{gateway: {allowedImports: [x]}}", "allowedImports"},
		"tags that are followed":                    {"{updatePolicy: Auto}", ""},
		"an unknown policy":                         {"{updatePolicy: Sometimes}", "updatePolicy"},
	})
}

func releases(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("'2.0.%d'", i)
	}
	return strings.Join(all, ", ")
}

func many(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf("{name: a, version: '%d', url: 'oci://r.example/a:1'}", i)
	}
	return plugins(items...)
}

func TestPluginServerValidation(t *testing.T) {
	t.Parallel()
	validate(t, "PluginServer", map[string]validation{
		"an empty server is valid":          {"{}", ""},
		"no replicas":                       {"{replicas: 0}", ""},
		"somebody's image":                  {"{server: {type: Image, image: 'r.example/plugin-server:1'}}", ""},
		"somebody's image, not named":       {"{server: {type: Image}}", "a server of type Image needs an image"},
		"somebody's image with sources":     {"{sourceSelector: {}, server: {type: Image, image: 'r.example/plugin-server:1'}}", "neither sources nor storage"},
		"somebody's image with storage":     {"{storage: {type: Shared}, server: {type: Image, image: 'r.example/plugin-server:1'}}", "neither sources nor storage"},
		"an unknown server":                 {"{server: {type: nginx}}", "spec.server.type"},
		"a shared volume":                   {"{storage: {type: Shared, storageClassName: nfs, claimPolicy: Delete}}", ""},
		"an existing claim":                 {"{storage: {type: Shared, existingClaim: plugins}}", ""},
		"an existing claim for each":        {"{storage: {type: PerReplica, existingClaim: plugins}}", "existingClaim is for storage of type Shared"},
		"an existing claim with a class":    {"{storage: {type: Shared, existingClaim: plugins, storageClassName: nfs}}", "claims that the operator makes"},
		"an emptyDir with a class":          {"{storage: {storageClassName: nfs}}", "claims that the operator makes"},
		"an unknown storage":                {"{storage: {type: HostPath}}", "spec.storage.type"},
		"an unknown fate of claims":         {"{storage: {type: Shared, claimPolicy: Recycle}}", "spec.storage.claimPolicy"},
		"negative replicas":                 {"{replicas: -1}", "spec.replicas"},
		"too many replicas":                 {"{replicas: 101}", "spec.replicas"},
		"no retention":                      {"{retention: 0s}", ""},
		"the longest retention":             {"{retention: 720h}", ""},
		"too long a retention":              {"{retention: 721h}", "retention must be between 0s and 720h"},
		"a negative retention":              {"{retention: -1s}", "retention must be between 0s and 720h"},
		"a retention that is none":          {"{retention: long}", "spec.retention"},
		"the smallest volume":               {"{storage: {sizeLimit: 64Mi}}", ""},
		"too small a volume":                {"{storage: {sizeLimit: 63Mi}}", "sizeLimit must be between 64Mi and 1Ti"},
		"a volume by a number":              {"{storage: {sizeLimit: 1073741824}}", ""},
		"too large a volume":                {"{storage: {sizeLimit: 2Ti}}", "sizeLimit must be between 64Mi and 1Ti"},
		"a pattern":                         {"{urlPattern: 'https://x/${name}/${version}'}", ""},
		"a pattern without the version":     {"{urlPattern: 'https://x/${name}'}", "urlPattern must contain ${name} and ${version}"},
		"a pattern without the name":        {"{urlPattern: 'https://x/${version}'}", "urlPattern must contain ${name} and ${version}"},
		"a pattern of another scheme":       {"{urlPattern: 'oci://x/${name}:${version}'}", "spec.urlPattern"},
		"an unknown mode":                   {"{higress: {console: {mode: Force}}}", "spec.higress.console.mode"},
		"an unknown pull policy":            {"{server: {imagePullPolicy: Sometimes}}", "spec.server.imagePullPolicy"},
		"an mcp-server that leads away":     {"{higress: {controller: {mcpServerVersion: '../1'}}}", "mcpServerVersion"},
		"an image with a space":             {"{server: {image: 'a b'}}", "spec.server.image"},
		"the same pull secret twice":        {"{server: {imagePullSecrets: [{name: a}, {name: a}]}}", "Duplicate"},
		"a selector":                        {"{sourceSelector: {matchLabels: {a: b}}}", ""},
		"more tolerations than are allowed": {"{tolerations: [" + strings.Repeat("{key: a},", 33) + "]}", "spec.tolerations"},
	})
}

func TestPluginServerNames(t *testing.T) {
	t.Parallel()
	c := adminClient(t)
	for name, refusal := range map[string]string{
		"a": "", "higress-plugin-server": "", strings.Repeat("a", 52): "",
		strings.Repeat("a", 53): "at most 52 characters", "a.b": "the name becomes", "1a": "the name becomes",
		"..": "Invalid value", "Upper": "Invalid value", strings.Repeat("a", 300): "Invalid value", "服务": "Invalid value",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &v1alpha1.PluginServer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
			checkRefusal(t, c.Create(t.Context(), server, client.DryRunAll), refusal)
		})
	}
}

// TestScale shows that a server with an empty spec can be scaled.
func TestScale(t *testing.T) {
	t.Parallel()
	c := adminClient(t)
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("apiVersion: plugins.higress.io/v1alpha1\nkind: PluginServer\nmetadata: {name: scaled, namespace: default}\nspec: {}"), &object.Object); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	server, scale := &v1alpha1.PluginServer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "scaled"}}, &autoscalingv1.Scale{}
	if err := c.SubResource("scale").Get(t.Context(), server, scale); err != nil || scale.Spec.Replicas != 2 {
		t.Fatalf("scale of an empty spec is %d, want 2: %v", scale.Spec.Replicas, err)
	}
	scale.Spec.Replicas = 5
	if err := c.SubResource("scale").Update(t.Context(), server, client.WithSubResourceBody(scale)); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(server), server); err != nil || *server.Spec.Replicas != 5 {
		t.Errorf("replicas are %v after scaling to 5: %v", server.Spec.Replicas, err)
	}
}
