using UnityEngine;

namespace Everscene.Samples
{
    /// <summary>
    /// You will see the stream as the sky around you, and a health bar. As it falls, an Everscene Events component sends a storm
    /// that grows with the damage; when it is full again, the sky clears.
    /// </summary>
    public sealed class HealthSkybox : MonoBehaviour
    {
        const float Hurt = 0.02f; // less damage than this is none

        [SerializeField] string endpoint = "tcp://127.0.0.1:7464";
        [SerializeField, Range(0, 1)] float health = 1;

        Material sky;
        Texture shown;
        bool wasHurt;

        public EversceneStream Stream { get; private set; }
        public EversceneEvents Events { get; private set; }
        public float Health { get => health; set => health = value; }

        void Start()
        {
            if (Camera.main == null) new GameObject("Main Camera") { tag = "MainCamera" }.AddComponent<Camera>();
            sky = new Material(Shader.Find("Skybox/Panoramic"));
            sky.SetFloat("_ImageType", 1); // the picture covers the half of the sky before us
            Stream = gameObject.AddComponent<EversceneStream>();
            Stream.Endpoint = endpoint;
            Events = gameObject.AddComponent<EversceneEvents>();
            Events.Stream = Stream;
            Events.Bindings.Add(new EventBinding
            {
                trigger = EventTrigger.Value, eventName = "storm", valueParam = "intensity", valueStep = 0.1f, rest = 1,
            });
        }

        void Update()
        {
            ShowSky();
            float damage = 1 - health;
            bool isHurt = damage > Hurt;
            if (isHurt) Events.SetValue(damage);
            else if (wasHurt) Stream.SendEvent("calm");
            wasHurt = isHurt;
        }

        void OnGUI()
        {
            GUI.Label(new Rect(10, 10, 60, 20), "Health");
            health = GUI.HorizontalSlider(new Rect(70, 15, 200, 20), health, 0, 1);
            GUI.Label(new Rect(10, 35, 800, 40), Stream.Problem.Length > 0 ? Stream.Problem : Stream.Prompt);
        }

        // The texture object stays the same from frame to frame; only a new one has to be told to the sky.
        void ShowSky()
        {
            if (Stream.Texture == null || ReferenceEquals(shown, Stream.Texture)) return;
            shown = Stream.Texture;
            sky.SetTexture("_MainTex", shown);
            RenderSettings.skybox = sky;
        }
    }
}
