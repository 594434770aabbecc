using UnityEngine;

namespace Everscene.Samples
{
    /// <summary>
    /// You will see a visitor (the sphere) walk up and down before a portal. On the way lie three trigger volumes; each has an
    /// Everscene Events component that turns the world behind the portal: forest, desert, city. There is no code for it.
    /// </summary>
    public sealed class Portal : MonoBehaviour
    {
        const float Span = 6; // metres from end to end
        const float Speed = 1;

        static readonly string[] Places = { "forest", "desert", "city" };

        [SerializeField] string endpoint = "tcp://127.0.0.1:7464";

        Transform visitor;

        public EversceneStream Stream { get; private set; }
        public EversceneEvents[] Volumes { get; private set; }

        void Start()
        {
            PrepareStage();
            GameObject portal = GameObject.CreatePrimitive(PrimitiveType.Quad);
            portal.name = "Portal";
            portal.transform.position = new Vector3(0, 0.6f, 5);
            portal.transform.localScale = new Vector3(16f / 3f, 3, 1);
            Stream = portal.AddComponent<EversceneStream>();
            Stream.TargetRenderer = portal.GetComponent<Renderer>();
            Stream.Endpoint = endpoint;
            visitor = MakeVisitor();
            Volumes = new EversceneEvents[Places.Length];
            for (int i = 0; i < Places.Length; i++) Volumes[i] = MakeVolume(Places[i], (i - 1) * Span / Places.Length);
        }

        void Update()
        {
            float way = Time.time * Speed % (2 * Span);
            float x = (way < Span ? way : 2 * Span - way) - Span / 2;
            visitor.position = new Vector3(x, -1.2f, 4);
        }

        void OnGUI() => GUI.Label(new Rect(10, 10, 800, 40), Stream.Problem.Length > 0 ? Stream.Problem : Stream.Prompt);

        EversceneEvents MakeVolume(string place, float x)
        {
            var volume = new GameObject(place);
            volume.transform.position = new Vector3(x, -1.2f, 4);
            var box = volume.AddComponent<BoxCollider>();
            box.size = new Vector3(1, 1, 1);
            box.isTrigger = true;
            var events = volume.AddComponent<EversceneEvents>();
            events.Stream = Stream;
            events.Bindings.Add(new EventBinding { trigger = EventTrigger.TriggerEnter, eventName = place });
            return events;
        }

        // Triggers notice only what has a rigid body; ours is moved by hand.
        static Transform MakeVisitor()
        {
            GameObject sphere = GameObject.CreatePrimitive(PrimitiveType.Sphere);
            sphere.name = "Visitor";
            sphere.transform.localScale = new Vector3(0.4f, 0.4f, 0.4f);
            var body = sphere.AddComponent<Rigidbody>();
            body.isKinematic = true;
            body.useGravity = false;
            return sphere.transform;
        }

        static void PrepareStage()
        {
            if (Camera.main == null) new GameObject("Main Camera") { tag = "MainCamera" }.AddComponent<Camera>();
            new GameObject("Light").AddComponent<Light>().type = LightType.Directional;
        }
    }
}
