using System;
using System.Collections.Generic;
using UnityEngine;
using UnityEngine.Events;

namespace Everscene
{
    [Flags]
    public enum Flip { None = 0, Horizontal = 1, Vertical = 2 }

    public sealed partial class EversceneStream
    {
        /// <summary>Environment variable that is read when no token is set, so that it need not lie in a scene file.</summary>
        public const string TokenVariable = "EVERSCENE_TOKEN";

        static readonly string[] KnownProperties = { "_BaseMap", "_BaseColorMap", "_UnlitColorMap", "_MainTex" };

        [Header("Connection")]
        [SerializeField, Tooltip("Where the sidecar listens, as `everscene serve` prints it.")]
        string endpoint = "tcp://127.0.0.1:7464";
        [SerializeField, Tooltip("Only if the sidecar was started with one. Better: set EVERSCENE_TOKEN in the environment.")]
        string token = "";
        [SerializeField, Tooltip("Auto: shared memory on this machine, pictures through the socket from another one.")]
        FrameTransport transportWish = FrameTransport.Auto;
        [SerializeField, Tooltip("In the Editor: start `everscene serve` when Play begins and nothing listens yet.")]
        bool launchInEditor;
        [SerializeField, Tooltip("What follows `everscene serve` when it is started from here.")]
        string launchArguments = "--model pocket";
        [SerializeField, Tooltip("Show the stream outside of Play mode too.")]
        bool previewInEditMode;

        [Header("Picture")]
        [SerializeField, Tooltip("Newest: least delay. In Order: every frame, as long as the game keeps up.")]
        Playback playback = Playback.Newest;
        [SerializeField, Tooltip("Mirrors the picture in the targets; `texture` itself is always upright.")]
        Flip flip = Flip.None;
        [SerializeField, Tooltip("Every frame is drawn into it.")]
        RenderTexture targetTexture;
        [SerializeField, Tooltip("Every frame is put on its material.")]
        Renderer targetRenderer;
        [SerializeField, Tooltip("Texture property of that material; empty: found by itself.")]
        string targetMaterialProperty = "";

        [Header("Events")]
        [SerializeField] UnityEvent onConnected = new UnityEvent();
        [SerializeField] UnityEvent<string> onDisconnected = new UnityEvent<string>();
        [SerializeField] UnityEvent<Texture> onFrame = new UnityEvent<Texture>();
        [SerializeField] UnityEvent<string> onEventApplied = new UnityEvent<string>();
        [SerializeField] UnityEvent<string> onPrompt = new UnityEvent<string>();
        [SerializeField] UnityEvent<string> onError = new UnityEvent<string>();

        Connection inUse;

        // Changes that need a new connection.
        struct Connection : IEquatable<Connection>
        {
            public string Endpoint;
            public string Token;
            public string Name;
            public FrameTransport Transport;

            public bool Equals(Connection other) =>
                Endpoint == other.Endpoint && Token == other.Token && Name == other.Name && Transport == other.Transport;

            public ClientSettings ForClient() => new ClientSettings
            {
                Endpoint = Endpoint, Token = Token, Name = Name, Transport = Transport,
            };
        }

        Connection Wanted => new Connection
        {
            Endpoint = endpoint,
            Token = string.IsNullOrEmpty(token) ? Environment.GetEnvironmentVariable(TokenVariable) ?? "" : token,
            Name = NameForPeople(Application.productName),
            Transport = transportWish,
        };

        static string NameForPeople(string product)
        {
            string name = string.IsNullOrWhiteSpace(product) ? "unity" : product.Trim();
            return name.Length > 64 ? name.Substring(0, 64) : name;
        }

        /// <summary>Raised on the main thread, inside Update.</summary>
        public event Action<Welcome> Connected;
        /// <summary>With the reason; the component connects again by itself.</summary>
        public event Action<string> Disconnected;
        /// <summary>A frame was put into <see cref="Texture"/> and the targets.</summary>
        public event Action<FrameInfo> FrameShown;
        public event Action<Receipt> ReceiptChanged;
        public event Action<Receipt> EventApplied;
        public event Action<string> PromptChanged;
        public event Action<string> Failed;

        public UnityEvent OnConnected => onConnected;
        public UnityEvent<string> OnDisconnected => onDisconnected;
        public UnityEvent<Texture> OnFrame => onFrame;
        public UnityEvent<string> OnEventApplied => onEventApplied;
        public UnityEvent<string> OnPrompt => onPrompt;
        public UnityEvent<string> OnError => onError;

        /// <summary>Setting another one connects anew.</summary>
        public string Endpoint { get => endpoint; set { endpoint = value; RestartIfChanged(); } }
        public string Token { get => token; set { token = value; RestartIfChanged(); } }
        public FrameTransport TransportWish { get => transportWish; set { transportWish = value; RestartIfChanged(); } }
        public bool LaunchInEditor { get => launchInEditor; set => launchInEditor = value; }
        public string LaunchArguments { get => launchArguments; set => launchArguments = value; }
        public bool PreviewInEditMode { get => previewInEditMode; set { previewInEditMode = value; RestartIfChanged(); } }
        public Playback Playback { get => playback; set => playback = value; }
        public Flip Flip { get => flip; set { flip = value; targetsAreStale = true; } }
        public RenderTexture TargetTexture { get => targetTexture; set => targetTexture = value; }
        public Renderer TargetRenderer
        {
            get => targetRenderer;
            set
            {
                targetRenderer = value;
                targetsAreStale = true;
                if (rendererInUse != value) ReleaseRenderer();
            }
        }
        public string TargetMaterialProperty
        {
            get => targetMaterialProperty;
            set { targetMaterialProperty = value; targetsAreStale = true; }
        }

        /// <summary>The stream's picture, upright, sRGB; null before the first frame. Another object after a change of size.</summary>
        public Texture2D Texture => texture;
        /// <summary>The frame in <see cref="Texture"/>; its Number is 0 before the first.</summary>
        public FrameInfo Frame => frame;
        public bool IsConnected => client != null && client.State == ClientState.Connected;
        public ClientState State => client == null ? ClientState.Stopped : client.State;
        /// <summary>`live`, `slow`, `stalled`, …; empty without a connection.</summary>
        public string ServerState => client == null ? "" : client.ServerState;
        /// <summary>What is wrong, in words; empty when all is well.</summary>
        public string Problem => client != null && client.LastError.Length > 0 ? client.LastError : problem;
        /// <summary>The prompt in force.</summary>
        public string Prompt => client == null ? "" : client.Prompt;
        /// <summary>What the sidecar said of itself; null before the first connection.</summary>
        public Welcome Welcome => client == null ? null : client.Welcome;
        public SceneDescription Scene => client == null ? new SceneDescription() : client.Scene;
        public ClientStatistics Statistics => client == null ? new ClientStatistics() : client.Statistics;
        /// <summary>The client behind it, for what is not repeated here; null while disabled.</summary>
        public EversceneClient Client => client;

        /// <summary>
        /// Sends an event of the scene: <c>SendEvent("storm", new EventParam("intensity", 0.8f))</c>. Await the receipt,
        /// yield it in a coroutine, or let it be.
        /// </summary>
        public Receipt SendEvent(string eventName, params EventParam[] values) =>
            SendEvent(eventName, When.Default, values);

        /// <summary>The same, saying when it takes hold.</summary>
        public Receipt SendEvent(string eventName, When when, params EventParam[] values) =>
            client == null ? NotRunning(eventName) : client.SendEvent(eventName, when, values);

        /// <summary>Sends a whole prompt, in place of the scene's.</summary>
        public Receipt SendPrompt(string text, Transition transition = Transition.Recache, When when = When.Default) =>
            client == null ? NotRunning(text) : client.SendPrompt(text, transition, when);

        /// <summary>The same, little by little: <c>SendPrompt("a harbour at night", new Blend(6))</c>.</summary>
        public Receipt SendPrompt(string text, Blend blend, When when = When.Default) =>
            client == null ? NotRunning(text) : client.SendPrompt(text, blend, when);

        /// <summary>Puts words into slots of the scene, as a fader would: slot name → words.</summary>
        public Receipt SendSlots(
            IReadOnlyDictionary<string, string> words, Transition transition = Transition.Recache, When when = When.Default) =>
            client == null ? NotRunning("slots") : client.SendSlots(words, transition, when);

        /// <summary>The same, little by little.</summary>
        public Receipt SendSlots(IReadOnlyDictionary<string, string> words, Blend blend, When when = When.Default) =>
            client == null ? NotRunning("slots") : client.SendSlots(words, blend, when);

        /// <summary>For UnityEvents, which cannot call what returns something.</summary>
        public void TriggerEvent(string eventName) => SendEvent(eventName);

        /// <summary>For UnityEvents.</summary>
        public void TriggerPrompt(string text) => SendPrompt(text);

        static Receipt NotRunning(string name) =>
            Receipt.Unsent(name, "not_connected", "the Everscene Stream component is disabled, or its endpoint is wrong");

        // Built-in, URP and HDRP call the main texture by different names.
        string PropertyFor(Renderer target)
        {
            if (!string.IsNullOrEmpty(targetMaterialProperty)) return targetMaterialProperty;
            Material material = target.sharedMaterial;
            foreach (string known in KnownProperties)
                if (material != null && material.HasProperty(known)) return known;
            return "_MainTex";
        }

        // When the component is added: the renderer beside it is the likely target.
        void Reset() => targetRenderer = GetComponent<Renderer>();
    }
}
